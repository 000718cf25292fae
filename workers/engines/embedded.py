"""Embedded DuckDB: runs compiled Spark SQL in the executor's own process, each job in its own session and thread."""

import asyncio
import math
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID, uuid4

import duckdb
from duckdb import DuckDBPyConnection

from adapters.base import Run as SeenRun
from adapters.base import RunStatus, StopAnswer
from adapters.narrative.wire import ENGINE, run_handle
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import FailureCause, Handle, JobType
from control_plane.planes import Owner
from control_plane.work import EVERYWHERE, Claim, Publication, Served
from workers.engines.base import Ending
from workers.engines.embedded_runs import Interrupter, Run, RunBook
from workers.engines.folder import Folder
from workers.engines.plans import TYPES, Answer, Plan, plan
from workers.engines.warehouse import Warehouse, refuse_table

Told = TypeVar("Told")

REMEMBERED = 10_000
INTERRUPT_EVERY_SECONDS = 0.02


def utc_now() -> datetime:
    """The engine's own clock: this machine's."""
    return datetime.now(UTC)


class EmbeddedEngine:
    """One incarnation of the engine in one folder; what a run ended as is remembered for this incarnation only.

    *interrupt* is how a session is interrupted; a test or a demonstration may give one that does not.
    """

    name = ENGINE
    types: frozenset[JobType] = TYPES
    clusters: Served = EVERYWHERE
    ends_with_executor = True  #: it is in the same process, and whoever holds the folder's lock knows that to be gone

    def __init__(
        self,
        folder: Folder,
        warehouse: Warehouse,
        *,
        microcents_per_second: float = 0.0,
        interrupt: Callable[[DuckDBPyConnection], None] = DuckDBPyConnection.interrupt,
        now: Callable[[], datetime] = utc_now,
        remembered: int = REMEMBERED,
    ) -> None:
        self.executor_id = folder.executor_id
        self.incarnation = str(folder.incarnation)
        self._warehouse = warehouse
        self._microcents_per_second = microcents_per_second
        self._now = now
        self._fatal: str | None = None
        self._book = RunBook(remembered=remembered)
        self._interrupter = Interrupter(interrupt, every_seconds=INTERRUPT_EVERY_SECONDS)
        self._housekeeping = ThreadPoolExecutor(1, thread_name_prefix="housekeeping")

    # --- as the executor uses it

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        """Begin the job's one run; the SQL is read in the run's own thread, because a long one takes seconds."""
        return self._begin(claim, permit_left)

    def start_query(self, sql: str, owner: str) -> Handle:
        """Begin a query that is nobody's job, and counts the rows of *sql*: as if it were started elsewhere."""
        query_id = uuid4()
        wanted = {"nql": sql, "compiled_sql": sql}
        claim = Claim(query_id, JobType.NQL_FORECAST, wanted, f"query:{query_id}", query_id, permit_seconds=math.inf)
        return self._begin(claim, lambda: math.inf, Owner(user=owner))

    def _begin(self, claim: Claim, permit_left: Callable[[], float], owner: Owner | None = None) -> Handle:
        handle = run_handle(self.executor_id, self.incarnation, claim.job_id)
        run = Run(claim, handle, self._warehouse.session(), permit_left, owner)
        self._book.add(run)
        threading.Thread(target=self._carry_out, args=[run], name=str(claim.job_id), daemon=True).start()
        return handle

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this incarnation does not know."""
        for run in self._book.by_handles([handle]):
            return await asyncio.shield(asyncio.wrap_future(run.ended))
        raise EngineUnavailable(f"handle: {handle.run_id} is no run of this incarnation", field="handle")

    async def close(self, tag: str) -> bool:
        """Close the tag for good, and stop its run: what is in this process is certain at once."""
        run = self._book.close(tag)
        if run is not None:
            self._stop(run)
        return True

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs; those without a publication have nothing to show and are left out."""
        orders = {claim.job_id: claim.publication for claim in claims if claim.publication is not None}
        return await self.publish_orders(orders)

    async def publish_orders(self, orders: Mapping[UUID, Publication]) -> frozenset[UUID]:
        """Publish by job id; answers those whose publication stands, and raises only when none does."""
        return await self._keep_house(partial(self._publish, orders))

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader sees."""
        return await self._keep_house(self._warehouse.unpublished)

    async def discard(self, jobs: Collection[UUID]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that is still being written is left for the next time."""
        active = {run.claim.job_id for run in self._book.active()}
        idle = [job_id for job_id in jobs if job_id not in active]
        return await self._keep_house(partial(self._warehouse.discard, idle))

    def check(self) -> None:
        """Raise EngineUnavailable once DuckDB has met a fatal error: until reopened, it then refuses everything."""
        if self._fatal is not None:
            raise EngineUnavailable(f"DuckDB cannot go on: {self._fatal}")

    async def aclose(self) -> None:
        """Stop every run, wait until all have ended, however long that takes, and close the database.

        Whoever lets go of the folder afterwards lets nobody vouch for the end of a run that goes on.
        """
        for run in self._book.active():
            self._stop(run)
        await asyncio.to_thread(self._shut)

    # --- as its run server shows it

    def list_runs(self, tags: Sequence[str]) -> list[SeenRun]:
        """The runs under these very tags."""
        return [run.seen() for run in self._book.by_tags(tags)]

    def active_runs(self) -> list[SeenRun]:
        """Every run that has not ended."""
        return [run.seen() for run in self._book.active()]

    def observe(self, handles: Sequence[Handle]) -> list[SeenRun]:
        """What is known of these runs; forgotten and unknown ones are left out."""
        return [run.seen() for run in self._book.by_handles(handles)]

    def stop(self, handles: Sequence[Handle]) -> dict[Handle, StopAnswer]:
        """Stop these runs; one that is not known here has nothing to be stopped."""
        answers = dict.fromkeys(handles, StopAnswer.ALREADY_ENDED)
        for run in self._book.by_handles(handles):
            if not run.ended.done():
                self._stop(run)
                answers[run.handle] = StopAnswer.ACCEPTED
        return answers

    # --- inside

    def _stop(self, run: Run) -> None:
        self._interrupter.stop(run)

    def _carry_out(self, run: Run) -> None:
        try:
            ending = self._outcome(run)
        except Exception as error:  # noqa: BLE001  the thread's boundary: a run's end is told, whatever it was
            ending = self._failed(run, f"{type(error).__name__}: {error}", {"trace": traceback.format_exc()})
        run.end(ending)
        self._book.note_end(run)

    def _outcome(self, run: Run) -> Ending:
        try:
            planned = self._plan(run)
            if refusal := run.refusal():
                return self._stopped(run, refusal)
            run.word = "executing"
            return self._succeeded(planned, _execute(run.session, planned))
        except BadInput as error:
            return self._failed(run, error.message, {"field": error.field})
        except duckdb.InterruptException as error:
            return self._stopped(run, str(error)) if run.stopping.is_set() else self._failed(run, str(error), {})
        except duckdb.Error as error:
            self._note_fatal(error)
            return self._failed(run, str(error), {"trace": traceback.format_exc()})

    def _plan(self, run: Run) -> Plan:
        planned = plan(run.claim, self._microcents_per_second)
        if planned.target is not None:
            refuse_table(run.session, planned.target)
        return planned

    def _succeeded(self, planned: Plan, answer: Answer) -> Ending:
        return Ending(
            RunStatus.SUCCEEDED,
            "succeeded",
            self._now(),
            result=planned.conclude(answer),
            dataset_id=planned.dataset_id,
        )

    def _stopped(self, run: Run, word: str) -> Ending:
        return Ending(RunStatus.STOPPED, word, self._now(), cause=self._cause(run, f"the run was stopped: {word}", {}))

    def _failed(self, run: Run, message: str, diagnostics: dict[str, Any]) -> Ending:
        word = message.splitlines()[0] if message else "failed"
        return Ending(RunStatus.ERRORED, word, self._now(), cause=self._cause(run, message, diagnostics))

    def _cause(self, run: Run, message: str, diagnostics: dict[str, Any]) -> FailureCause:
        sql = run.claim.input.get("compiled_sql") or run.claim.input.get("compiled_select")
        known = {"engine": ENGINE, "run_id": run.handle.run_id, "sql": sql}
        return FailureCause(message, self._now(), {key: value for key, value in (known | diagnostics).items() if value})

    def _publish(self, orders: Mapping[UUID, Publication]) -> frozenset[UUID]:
        """Each in a transaction of its own: what is wrong with one keeps no other from its readers."""
        published: set[UUID] = set()
        failed: duckdb.Error | None = None
        for job_id, order in orders.items():
            try:
                published |= {job_id} if self._warehouse.publish(job_id, order) else set()
            except duckdb.Error as error:
                failed = error
        if failed is not None and not published:
            raise failed
        return frozenset(published)

    async def _keep_house(self, chore: Callable[[], Told]) -> Told:
        """One thread does these in turn: DuckDB answers two publishers of one view with a conflict."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._housekeeping, chore)
        except duckdb.Error as error:
            self._note_fatal(error)
            raise EngineUnavailable(f"DuckDB: {str(error).splitlines()[0]}") from error

    def _note_fatal(self, error: duckdb.Error) -> None:
        if isinstance(error, duckdb.FatalException):
            self._fatal = str(error).splitlines()[0]

    def _shut(self) -> None:
        wait([run.ended for run in self._book.active()])
        self._interrupter.finish()
        self._housekeeping.shutdown()
        self._warehouse.close()


def _execute(session: DuckDBPyConnection, planned: Plan) -> Answer:
    """Every statement answers one number: the rows counted, or the rows written."""
    if len(session.extract_statements(planned.sql)) != 1:  # the translation allows one; DuckDB would run them all
        raise BadInput("compiled_sql: exactly one SELECT is allowed", field="compiled_sql")
    began = monotonic()
    answered = session.execute(planned.sql).fetchone()
    return Answer(answered[0] if answered else 0, monotonic() - began)
