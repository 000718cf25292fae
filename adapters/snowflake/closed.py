"""What the history said of closed works, so that it is not read again while they end: a status is told far sooner."""

from collections import OrderedDict
from typing import NamedTuple
from uuid import UUID

from adapters.base import ENDED, ClosedWork, Listing
from adapters.snowflake.history import Entry, Reading
from adapters.snowflake.line import Identity
from adapters.snowflake.listings import named
from control_plane.work import Work

MOST = 10_000  #: works that are remembered; who was not seen for longest is read again


class _Known(NamedTuple):
    incarnation: str
    entries: tuple[Entry, ...]


class ClosedWorks:
    """The queries of works that were closed when a complete reading began: all that they will ever have."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[UUID, _Known] = OrderedDict()

    def reading_of(self, work: Work, here: Identity) -> Reading | None:
        """What was read of it in this account; None where that is not known, or it is not closed."""
        known = self._known.get(work.job_id)
        if known is None or known.incarnation != here.incarnation or not isinstance(work, ClosedWork):
            return None
        return Reading(known.entries)

    def note(self, work: Work, reading: Reading, listing: Listing, here: Identity) -> None:
        """Keep what the listing was made of, for as long as something of the work has not ended.

        Not where the history lacks what the handle names: it lags, and may lack others.
        """
        ended = all(run.status in ENDED for run in listing.runs)
        own = tuple(entry for entry in reading.entries if entry.tag == work.tag or entry.query_id in named([work]))
        is_whole = listing.complete and named([work]) <= {entry.query_id for entry in own}
        if not isinstance(work, ClosedWork) or ended or not is_whole:
            self._known.pop(work.job_id, None)
            return
        self._known[work.job_id] = _Known(here.incarnation, own)
        self._known.move_to_end(work.job_id)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
