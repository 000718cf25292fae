"""The sessions that jobs have to themselves on a Connect server: what runs in them, and how they are ended for good.

An ended session answers every call with SESSION_CLOSED, and GetStatus tells nothing of its operations any more: their
states are read first. No time ends that, but the number of others that are ended since the session was last asked about
(``spark.connect.session.manager.closedSessionsTombstonesSize``, 1000; measured with Spark 4.3.0: after 800 others all
of 50 were remembered, after 900 40 of them, after 1100 none), and a restart: then it is SESSION_NOT_FOUND, and would be
begun anew. One that the server has never seen it does not remember at all, so that it is touched first.
"""

from collections import OrderedDict
from collections.abc import Mapping
from uuid import UUID

from msgspec import structs

from adapters.base import Run, RunStatus
from adapters.narrative.spark_connect_errors import SESSION_CLOSED, SESSION_NOT_FOUND, answered
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_names import Identity, Session, operation_of, session_of
from adapters.narrative.spark_connect_words import TERMINATING, UNKNOWN, have_ended, run_of

REMEMBERED = 10_000  #: sessions that were ended here


class Sessions:
    """Those of the jobs of one user. Every call raises LineError."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._ended: OrderedDict[tuple[str, str], tuple[Run, ...]] = OrderedDict()  #: by incarnation and tag

    async def states(self, session: Session, *operation_ids: str) -> dict[str, str] | str:
        """By operation, of these or of all; or why there are none: the session was ended, or was never seen."""
        return await answered(lambda: self._line.states(session, operation_ids), SESSION_CLOSED, SESSION_NOT_FOUND)

    async def state(self, session: Session, operation_id: str) -> str:
        """Of one operation; or why there is none."""
        states = await self.states(session, operation_id)
        return states if isinstance(states, str) else states.get(operation_id, UNKNOWN)

    async def runs(self, job_id: UUID, tag: str, here: Identity) -> tuple[Run, ...]:
        """Every operation of the job's session; of an ended one what was known when it was ended."""
        states = await self.states(session_of(here.user, tag))
        if states == SESSION_CLOSED:
            return tuple(structs.replace(run, job_id=job_id) for run in self._remembered(job_id, tag, here))
        if isinstance(states, str):
            return ()
        return tuple(run_of(job_id, tag, name, state, here) for name, state in states.items())

    def was_ended_here(self, tag: str, here: Identity) -> bool:
        """Whether it was this process that ended the job's session on this start of the server."""
        return (here.incarnation, tag) in self._ended

    def _remembered(self, job_id: UUID, tag: str, here: Identity) -> tuple[Run, ...]:
        """Where somebody else has ended it, its run is gone; whether there ever was one, nobody can say any more."""
        if self.was_ended_here(tag, here):
            return self._ended[here.incarnation, tag]
        return (gone(job_id, tag, operation_of(tag), SESSION_CLOSED, here),)

    async def release_ended(self, session: Session, operation_id: str) -> str:
        """The operation's state. Where it has ended and nobody is left to let go of its answer, that is done here."""
        state = await self.state(session, operation_id)
        if state == TERMINATING:
            await self._line.release(session, operation_id)
        return state

    async def end(self, job_id: UUID, tag: str, here: Identity) -> bool:
        """End the job's session for good if nothing of it runs; whether it is ended."""
        session = session_of(here.user, tag)
        states = await self.states(session)
        if not isinstance(states, str) and not have_ended(states):
            return False
        if states == SESSION_CLOSED:
            return True
        if states == SESSION_NOT_FOUND:
            await self._line.touch(session)
        self._keep(job_id, tag, {} if isinstance(states, str) else states, here)
        await self._line.release_session(session)
        return await self.states(session) == SESSION_CLOSED

    def _keep(self, job_id: UUID, tag: str, states: Mapping[str, str], here: Identity) -> None:
        """Nothing of it was known to go on."""
        self._ended[here.incarnation, tag] = tuple(
            run_of(job_id, tag, name, state, here) for name, state in states.items()
        )
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)


def gone(job_id: UUID, tag: str, operation_id: str, word: str, here: Identity) -> Run:
    """A run of which the server knows nothing any more."""
    return structs.replace(run_of(job_id, tag, operation_id, UNKNOWN, here), status=RunStatus.GONE, word=word)
