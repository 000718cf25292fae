"""Cancelling on Snowflake: ``SYSTEM$CANCEL_QUERY``, and nothing believed but each query's own status.

A query's status is asked by its id; the history is read only to learn which queries a job has, whose they are and in
which session they ran. The service is never restarted: its incarnation is the account, so that a worker that is signed
in to another one proves nothing.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any
from uuid import UUID

from adapters.base import ENDED, Check, ClosedWork, Listing, Run, StopAnswer, Trouble
from adapters.registry import Surroundings
from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.canary import Canary
from adapters.snowflake.closed import ClosedWorks
from adapters.snowflake.history import Entry, History, Reading
from adapters.snowflake.line import NO_WAREHOUSE, Identity, Line, LineError, literal
from adapters.snowflake.listings import (
    ENGINE,
    active_listing,
    as_run,
    has_ended,
    job_of,
    mistaken,
    named,
    own_listing,
    query_id_of,
    seen_again,
    sessions_of,
    since,
    tracked_listing,
)
from adapters.snowflake.outputs import Outputs
from adapters.snowflake.sessions import cancel_all_in, end_sessions
from adapters.snowflake.words import ABORTING, Fate, found_running
from control_plane.errors import BadInput
from control_plane.jobs import Handle, Purpose, Rung, Waiting, with_purpose
from control_plane.work import Publication, Work

LADDER = (Rung.ASK, Rung.INSIST, Rung.FORCE)
#: What one rung was answered outweighs what stands before it and another rung was answered.
TELLING = (
    StopAnswer.UNREACHABLE,
    StopAnswer.ALREADY_ENDED,
    StopAnswer.NOT_PERMITTED,
    StopAnswer.ACCEPTED,
    StopAnswer.UNSUPPORTED,
)
CANCELS_AT_ONCE = 250  #: in one statement
OPTIONS = ("account", "sign_in", "executor_user", "canary")


class SnowflakeAdapter:
    """The adapter of a Snowflake plane, as the user of *sign_in*; no call but ``publish`` uses a warehouse.

    *executor_user* is whose queries the plane's jobs are (default: the same user), *canary* how that user signs in for
    :meth:`check`, where it is known here.
    """

    engine = ENGINE
    per_executor = False

    def __init__(
        self,
        account: Account,
        sign_in: SignIn,
        *,
        installation: str,
        data_plane_id: UUID,
        timeout_seconds: float = 10.0,
        executor_user: str | None = None,
        canary: SignIn | None = None,
    ) -> None:
        plane = f"{installation}:{data_plane_id}"
        self._executor_user = executor_user and executor_user.upper()
        self._line = Line(account, sign_in, timeout_seconds=timeout_seconds, tag=f"countermand-worker:{plane}")
        self._closed = ClosedWorks()
        self._warehouse = account.warehouse
        self._history = History(self._line, prefix=f"countermand:{plane}:", warehouse=account.warehouse)
        self._writing = Line(
            account, sign_in, timeout_seconds=timeout_seconds, tag=f"countermand-worker:{plane}", with_warehouse=True
        )
        self._outputs = Outputs(self._writing, account.database)
        as_executor = canary or (sign_in if self._executor_user in (None, sign_in.user.upper()) else None)
        self._canary = Canary(account, as_executor, tag=f"countermand:{plane}:canary", timeout_seconds=timeout_seconds)

    # --- finding

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's queries by tag, and by handle; a tracked one by its query id, with its owner."""
        try:
            return await self._find(works) if works else {}
        except LineError as error:
            return {work.job_id: Listing(trouble=error.trouble) for work in works}

    async def _find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        here = await self._line.identity()
        elsewhere = {work.job_id: Listing(trouble=why) for work in works if (why := mistaken(work, here)) is not None}
        left = [work for work in works if work.job_id not in elsewhere]
        fates = await self._line.fates(self._ids_of(left, here))
        owned, tracked = await asyncio.gather(
            self._list_own([work for work in left if work.tracked is None], fates, here),
            self._list_tracked([work for work in left if work.tracked is not None], fates, here),
        )
        await self._line.still_in(here.incarnation)
        return elsewhere | owned | tracked

    def _user(self, here: Identity) -> str:
        """Whose queries the plane's jobs are; a name of one's own may be written otherwise than it was signed in by."""
        return self._executor_user or here.user

    def _ids_of(self, works: Sequence[Work], here: Identity) -> set[str]:
        """The queries that they are known to have."""
        readings = [reading for work in works if (reading := self._closed.reading_of(work, here)) is not None]
        return named(works) | {entry.query_id for reading in readings for entry in reading.entries}

    async def _list_own(self, works: Sequence[Work], fates: Mapping[str, Fate], here: Identity) -> dict[UUID, Listing]:
        found = {work.job_id: self._list_without_history(work, fates, here) for work in works}
        clear = {job_id: listing for job_id, listing in found.items() if listing is not None}
        unclear = [work for work in works if work.job_id not in clear]
        return clear | (await self._list_by_history(unclear, fates, here) if unclear else {})

    def _list_without_history(self, work: Work, fates: Mapping[str, Fate], here: Identity) -> Listing | None:
        """Where nothing can start any more, what was read is enough.

        And where something can, and the recorded query is known to be active, nothing else has to be known yet.
        """
        reading = self._closed.reading_of(work, here)
        if reading is None:
            return None if isinstance(work, ClosedWork) else active_listing(work, fates, here)
        listing = own_listing(work, reading, fates, here, None)
        self._closed.note(work, reading, listing, here)
        return listing

    async def _list_by_history(
        self, unclear: Sequence[Work], fates: Mapping[str, Fate], here: Identity
    ) -> dict[UUID, Listing]:
        reading = await self._history.of_user(
            self._user(here), tags={work.tag for work in unclear}, query_ids=named(unclear), since=since(unclear)
        )
        listed = {entry.query_id for entry in reading.entries}
        more = {**fates, **await self._line.fates(listed - fates.keys())}
        incomplete = self._incomplete(reading, here)
        listings = {work.job_id: own_listing(work, reading, more, here, incomplete) for work in unclear}
        for work in unclear:
            self._closed.note(work, reading, listings[work.job_id], here)
        return listings

    def _incomplete(self, reading: Reading, here: Identity) -> Trouble | None:
        """Why this reading may lack a query of the executor's: then absence is no evidence."""
        user = self._user(here)
        if reading.truncated:
            detail = f"the history of {user} has more queries than one reading gives; the rest was not seen"
            return Trouble(Waiting.HANDLE_UNKNOWN, detail)
        if user != here.user and reading.ours == 0:
            where = f"the warehouse {self._warehouse}" if self._warehouse else "the warehouse"
            detail = f"{here.user} is shown no query that {user} ran as an executor there; may it monitor {where}?"
            return Trouble(Waiting.NOT_PERMITTED, detail)
        return None

    async def _list_tracked(
        self, works: Sequence[Work], fates: Mapping[str, Fate], here: Identity
    ) -> dict[UUID, Listing]:
        reading = await self._history.of_anybody(ids) if (ids := named(works)) else Reading()
        entries = {entry.query_id: entry for entry in reading.entries}
        return {work.job_id: tracked_listing(work, entries, fates, here) for work in works}

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """What each query's status says now; one that the account knows nothing of is unknown, never gone."""
        here = await self._line.identity()
        asked = [run for run in runs if run.handle.incarnation == here.incarnation and query_id_of(run.handle)]
        ids = {run.handle.run_id for run in asked}
        fates, entries = await asyncio.gather(self._line.fates(ids), self._entries(asked, here))
        return {
            run.handle: seen_again(run, fates[run.handle.run_id], entries.get(run.handle.run_id))
            for run in asked
            if run.handle.run_id in fates
        }

    async def _entries(self, runs: Sequence[Run], here: Identity) -> Mapping[str, Entry]:
        own = {run.handle.run_id for run in runs if run.owner is None}
        others = {run.handle.run_id for run in runs if run.owner is not None}
        readings = (
            await self._history.of_user(self._user(here), query_ids=own) if own else Reading(),
            await self._history.of_anybody(others) if others else Reading(),
        )
        return {entry.query_id: entry for reading in readings for entry in reading.entries}

    async def running(self) -> Listing:
        """Every active ``run`` of the plane's jobs."""
        try:
            here = await self._line.identity()
            reading = await self._history.open_of_user(self._user(here))
            fates = await self._line.fates([entry.query_id for entry in reading.entries])
            await self._line.still_in(here.incarnation)
        except LineError as error:
            return Listing(trouble=error.trouble)
        jobs = [(entry, job_id) for entry in reading.entries if (job_id := job_of(entry.tag)) is not None]
        runs = (as_run(job_id, entry.tag, entry.query_id, fates, here, entry) for entry, job_id in jobs)
        active = tuple(run for run in runs if run.status not in ENDED)
        trouble = self._incomplete(reading, here)
        return Listing(active, complete=trouble is None, incarnation=here.incarnation, trouble=trouble)

    # --- stopping and closing

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        """Cancel, set-wise; abort requests; then everything in the job's own session, which a tracked query has not.

        A rung does what the lower ones do as well: nobody climbs down again, and what lied or failed may work by now.
        """
        known = [run for run in runs if query_id_of(run.handle)]
        answers: dict[Handle, StopAnswer] = {}
        for each in LADDER[: LADDER.index(rung) + 1]:
            answers = _together(answers, await self._stop(known, each))
        return answers

    async def _stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        stops = {Rung.ASK: self._cancel, Rung.INSIST: self._abort, Rung.FORCE: self._end_sessions_of}
        try:
            return await stops[rung](runs)
        except LineError as error:
            return dict.fromkeys((run.handle for run in runs), _answer_to(error))

    async def _cancel(self, runs: Sequence[Run]) -> Mapping[Handle, StopAnswer]:
        """One that is aborting was told before, and is told again only by a higher rung."""
        told = {run.handle: StopAnswer.ACCEPTED for run in runs if run.word.startswith(ABORTING)}
        answers: dict[Handle, StopAnswer] = {}
        for batch in _batches([run.handle for run in runs if run.handle not in told], CANCELS_AT_ONCE):
            answers |= await self._cancel_together(batch)
        return told | answers

    async def _cancel_together(self, handles: Sequence[Handle]) -> Mapping[Handle, StopAnswer]:
        """In one statement, which fails as a whole where it fails for one of them: then by halves."""
        calls = ", ".join(f"SYSTEM$CANCEL_QUERY({literal(handle.run_id)})" for handle in handles)
        try:
            [row] = await self._line.tell(f"SELECT {calls}")
        except LineError as error:
            if not _concerns_one(error) or len(handles) == 1:
                raise
            return await self._cancel_apart(handles)
        return {handle: _answer_to_cancel(said) for handle, said in zip(handles, row, strict=True)}

    async def _cancel_apart(self, handles: Sequence[Handle]) -> Mapping[Handle, StopAnswer]:
        answers: dict[Handle, StopAnswer] = {}
        half = len(handles) // 2
        for part in (handles[:half], handles[half:]):
            try:
                answers |= await self._cancel_together(part)
            except LineError as error:
                if not _concerns_one(error):
                    raise
                answers |= dict.fromkeys(part, _answer_to(error))
        return answers

    async def _abort(self, runs: Sequence[Run]) -> Mapping[Handle, StopAnswer]:
        """The connector tells no kind of refusal from another; what became of the query, its status tells."""
        accepted = await self._line.abort([run.handle.run_id for run in runs])
        answers = {True: StopAnswer.ACCEPTED, False: StopAnswer.ALREADY_ENDED, None: StopAnswer.UNREACHABLE}
        return {run.handle: answers[accepted.get(run.handle.run_id)] for run in runs}

    async def _end_sessions_of(self, runs: Sequence[Run]) -> Mapping[Handle, StopAnswer]:
        own = {run.handle.run_id: run for run in runs if run.owner is None}
        answers = dict.fromkeys((run.handle for run in runs if run.owner is not None), StopAnswer.UNSUPPORTED)
        here = await self._line.identity()
        reading = await self._history.of_user(self._user(here), query_ids=own) if own else Reading()
        sessions = {entry.session_id for entry in reading.entries if entry.tag == own[entry.query_id].tag}
        await cancel_all_in(self._line, sessions)
        await end_sessions(self._line, sessions)
        found = {entry.query_id for entry in reading.entries}
        return answers | {
            run.handle: StopAnswer.ACCEPTED if query_id in found else StopAnswer.UNREACHABLE
            for query_id, run in own.items()
        }

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """End the sessions of jobs of which nothing runs any more; while something does, the ladder is for that."""
        own = [work for work in works if work.tracked is None]
        try:
            return await self._close(own) if own else frozenset()
        except LineError:
            return frozenset()

    async def _close(self, works: Sequence[Work]) -> frozenset[UUID]:
        here = await self._line.identity()
        ours = [work for work in works if mistaken(work, here) is None]
        tags = {tag for work in ours for tag in (work.tag, with_purpose(work.tag, Purpose.SESSION))}
        tagged = (await self._history.of_user(self._user(here), tags=tags, since=since(ours))).tagged()
        runs = {work.job_id: {entry.query_id for entry in tagged.get(work.tag, ())} | named([work]) for work in ours}
        fates = await self._line.fates({query_id for ids in runs.values() for query_id in ids})
        idle = [work for work in ours if all(has_ended(fates.get(query_id)) for query_id in runs[work.job_id])]
        sessions = {work.job_id: sessions_of(work, tagged) for work in idle}
        gone = await end_sessions(self._line, {session_id for ids in sessions.values() for session_id in ids})
        await self._line.still_in(here.incarnation)  # another account knows none of these numbers
        return frozenset(job_id for job_id, ids in sessions.items() if ids and ids <= gone)

    # --- effects

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Publish as far as this user may write there; the executor does it otherwise."""
        orders = [(work, work.publication) for work in works if work.publication is not None]
        return frozenset([work.job_id for work, order in orders if await self._publish(work, order)])

    async def _publish(self, work: Work, order: Publication) -> bool:
        try:
            return await self._outputs.publish(work.tag, work.job_id, order)
        except LineError:
            return False

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:  # noqa: ARG002  the Protocol's
        """Nothing: to look what was published would start a warehouse. The executor removes it, whose it is."""
        return {}

    # --- itself

    async def check(self) -> Check:
        """Start a query that only waits as the executor's user, and see whether this user is shown it and stops it."""
        began = monotonic()
        try:
            here = await self._line.identity()
            detail = await self._canary.fly(self._line, self._history, as_user=here.user, of_user=self._user(here))
        except LineError as error:
            return Check(ok=False, detail=error.message, seconds=monotonic() - began)
        return Check(ok=True, detail=detail, seconds=monotonic() - began)

    async def aclose(self) -> None:
        """Sign out."""
        await asyncio.gather(self._line.aclose(), self._writing.aclose())


def for_plane(surroundings: Surroundings) -> SnowflakeAdapter:
    """The adapter as the registry makes it; its options are the account, and who signs in there.

    Raises BadInput, naming the field, where no account is configured.
    """
    options: dict[str, Any] = dict(surroundings.options)
    for name in ("account", "sign_in"):
        if options.get(name) is None:
            raise BadInput(f"options: {name} is needed for {ENGINE}", field=name)
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise BadInput(
            f"options: unknown for {ENGINE}: {', '.join(unknown)}; allowed: {', '.join(OPTIONS)}", field="options"
        )
    return SnowflakeAdapter(
        **options,
        installation=surroundings.installation,
        data_plane_id=surroundings.data_plane_id,
        timeout_seconds=surroundings.timeout_seconds,
    )


def _batches(handles: Sequence[Handle], size: int) -> Iterator[Sequence[Handle]]:
    return (handles[start : start + size] for start in range(0, len(handles), size))


def _concerns_one(error: LineError) -> bool:
    """Whether a statement that is about many may have failed for one of them."""
    return error.trouble.waiting is not Waiting.PLANE_SILENT and error.code != NO_WAREHOUSE


def _answer_to(error: LineError) -> StopAnswer:
    return StopAnswer.NOT_PERMITTED if error.trouble.waiting is Waiting.NOT_PERMITTED else StopAnswer.UNREACHABLE


def _together(lower: Mapping[Handle, StopAnswer], higher: Mapping[Handle, StopAnswer]) -> dict[Handle, StopAnswer]:
    """What two rungs were answered, for each run what says more."""
    return {
        **lower,
        **{handle: max(answer, lower.get(handle, answer), key=TELLING.index) for handle, answer in higher.items()},
    }


def _answer_to_cancel(said: object) -> StopAnswer:
    return StopAnswer.ACCEPTED if found_running(said) else StopAnswer.ALREADY_ENDED
