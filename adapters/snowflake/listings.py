"""What is listed of each job: made of the queries' own statuses, and of the history's word on whose they are."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from msgspec import structs

from adapters.base import ENDED, Listing, Run, RunStatus, Trouble
from adapters.snowflake.history import Entry, Reading
from adapters.snowflake.line import QUERY_ID, Identity
from adapters.snowflake.words import Fate
from control_plane.jobs import Handle, Purpose, Waiting, with_purpose
from control_plane.work import Work

ENGINE = "snowflake"
UNASKED = Fate("", message="the account did not tell its status")


def query_id_of(handle: Handle | None) -> str | None:
    """The query that the handle names; only what has the form of a query id ever enters a statement or a URL."""
    return handle.run_id if handle is not None and QUERY_ID.fullmatch(handle.run_id) else None


def named(works: Iterable[Work]) -> set[str]:
    """The queries that the works' handles name."""
    return {query_id for work in works if (query_id := query_id_of(work.handle)) is not None}


def since(works: Iterable[Work]) -> datetime | None:
    """Before what moment nothing of these jobs can have ended, by the moments in their ids; None where one has none.

    An hour earlier, because clocks differ.
    """
    ids = [work.job_id for work in works]
    if not ids or any(job_id.version != 7 for job_id in ids):
        return None
    return datetime.fromtimestamp(min(job_id.int >> 80 for job_id in ids) / 1000, UTC) - timedelta(hours=1)


def job_of(tag: str) -> UUID | None:
    """The job of a tag of purpose ``run``."""
    *_, job_id, purpose = tag.split(":") if tag.count(":") >= 2 else ("", "")
    try:
        return UUID(job_id) if purpose == Purpose.RUN else None
    except ValueError:
        return None


def mistaken(work: Work, here: Identity) -> Trouble | None:
    """Why this account cannot tell of the work: it was claimed in another, or its handle names no query."""
    if work.tracked is not None:
        if query_id_of(work.handle) is not None:
            return None
        return Trouble(Waiting.HANDLE_UNKNOWN, "the handle is no query id: 01234567-89ab-cdef-0123-456789abcdef")
    claimed_in = work.handle.incarnation if work.handle is not None else work.incarnation
    if claimed_in in (None, here.incarnation):
        return None
    return Trouble(Waiting.HANDLE_UNKNOWN, f"the job ran in account {claimed_in}, and {here.incarnation} answers here")


def as_run(
    job_id: UUID, tag: str, query_id: str, fates: Mapping[str, Fate], here: Identity, entry: Entry | None = None
) -> Run:
    fate = fates.get(query_id, UNASKED)
    return Run(
        job_id=job_id,
        tag=tag,
        handle=Handle(ENGINE, here.incarnation, query_id),
        status=fate.run_status,
        word=fate.word,
        ended_at=_end_of(fate, entry),
    )


def _end_of(fate: Fate, entry: Entry | None) -> datetime | None:
    """By its status, or where that does not tell it, by the history."""
    if fate.run_status not in ENDED:
        return None
    return fate.ended_at or (entry.ended_at if entry is not None else None)


def seen_again(run: Run, fate: Fate, entry: Entry | None) -> Run:
    """The run as its status tells now; its tag and its owner as the history does, where that knows it."""
    now = structs.replace(run, status=fate.run_status, word=fate.word, ended_at=_end_of(fate, entry))
    return now if entry is None or run.owner is not None else structs.replace(now, tag=entry.tag)


def has_ended(fate: Fate | None) -> bool:
    """Whether the query is known to have ended."""
    return fate is not None and fate.run_status in ENDED


def active_listing(work: Work, fates: Mapping[str, Fate], here: Identity) -> Listing | None:
    """What is known without the history, of a recorded query that is active; there may be others all the same."""
    query_id = query_id_of(work.handle)
    run = None if query_id is None else as_run(work.job_id, work.tag, query_id, fates, here)
    if run is None or run.status is not RunStatus.ACTIVE:
        return None
    return Listing((run,), complete=False, incarnation=here.incarnation)


def own_listing(
    work: Work, reading: Reading, fates: Mapping[str, Fate], here: Identity, incomplete: Trouble | None
) -> Listing:
    """The queries under the tag; and the one that the handle names, unless that turns out to be another job's."""
    known = {entry.query_id: entry for entry in reading.entries}
    tagged = {query_id for query_id, entry in known.items() if entry.tag == work.tag}
    recorded = {query_id for query_id in named([work]) if query_id not in known}
    ids = sorted(tagged | recorded)
    runs = tuple(as_run(work.job_id, work.tag, query_id, fates, here, known.get(query_id)) for query_id in ids)
    return Listing(runs, complete=incomplete is None, incarnation=here.incarnation, trouble=incomplete)


def tracked_listing(work: Work, entries: Mapping[str, Entry], fates: Mapping[str, Fate], here: Identity) -> Listing:
    """The one query, with its owner; without knowing whose it is, nothing may be done to it."""
    query_id = query_id_of(work.handle) or ""
    entry = entries.get(query_id)
    if entry is None:
        detail = f"{here.user} is shown no query {query_id}: is it its id, and may {here.user} monitor its warehouse?"
        return Listing(incarnation=here.incarnation, trouble=Trouble(Waiting.HANDLE_UNKNOWN, detail))
    if entry.tag.startswith("countermand:"):
        detail = f"{query_id} is the run of a job, by its tag {entry.tag}: request the cancellation of that job instead"
        return Listing(incarnation=here.incarnation, trouble=Trouble(Waiting.NOT_PERMITTED, detail))
    run = structs.replace(as_run(work.job_id, entry.tag, query_id, fates, here, entry), owner=entry.owner)
    return Listing((run,), complete=True, incarnation=here.incarnation)


def sessions_of(work: Work, tagged: Mapping[str, Collection[Entry]]) -> set[int]:
    """The sessions of the job: its run's, and the one that was opened for it."""
    tags = (work.tag, with_purpose(work.tag, Purpose.SESSION))
    return {entry.session_id for tag in tags for entry in tagged.get(tag, ())}
