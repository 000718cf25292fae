"""Dedicated applications on a standalone master: each job is a driver of its own, submitted in cluster mode.

The driver is Spark's own command line for SQL, which is given the place of the job's script and no jar of ours. Nothing
is scraped off its output: what it finds out, it writes to the warehouse. Its end is what the master says of its id.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self
from uuid import UUID

import structlog

from adapters.base import ENDED, RunStatus
from adapters.narrative.spark_outputs import Outputs
from adapters.narrative.spark_standalone_line import ENGINE, LOOK_AGAIN_SECONDS, Fate, MasterError, MasterLine
from adapters.narrative.spark_standalone_scripts import Scripts, job_of
from adapters.narrative.spark_warehouse import WHOLE
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import ExecutionCluster, FailureCause, Handle, JobType
from control_plane.work import Claim
from workers.clock import Clock
from workers.engines.base import Ending, NotStarted
from workers.engines.run import Run
from workers.engines.run_book import RunBook
from workers.engines.spark_plans import (
    APPLICATION_SETTINGS,
    TYPES,
    Plan,
    Rows,
    catalog_settings,
    count_rows,
    plan,
    read_answer,
    statement,
)
from workers.outage import EngineOutage

log = structlog.get_logger()

MAIN_CLASS = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
CLIENT_VERSION = "4.3.0"  #: of the protocol, as its client gives it
REMEMBERED = 10_000
LONGEST_LOOK_SECONDS = 1.0
KILL_AGAIN_SECONDS = 1.0
#: What no job's application may be set to in another way. Its event log is where a driver is found by its tag.
FIXED = {
    "spark.submit.deployMode": "cluster",
    "spark.driver.supervise": "false",  # started again by itself, it would outlive its end
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
    "spark.eventLog.rolling.enabled": "false",
    **APPLICATION_SETTINGS,
}
#: What *properties* may change.
DEFAULTS = {"spark.ui.port": "0"}  # any free port: of one, and the sixteen after it, a host soon has none left


class SparkStandaloneEngine:
    """One master, and the warehouse that it shares with us.

    *timeout_seconds* bounds every call; *properties* are Spark's, of every application (memory, cores, catalogs).
    """

    name = ENGINE
    types: frozenset[JobType] = TYPES
    ends_with_executor = False  #: what was submitted, or is on its way, is in the master's hands

    def __init__(
        self,
        line: MasterLine,
        warehouse: Path,
        *,
        incarnation: str,
        timeout_seconds: float = 30.0,
        properties: Mapping[str, str] | None = None,
        microcents_per_second: float = 0.0,
        clock: Clock = Clock(),
    ) -> None:
        self.incarnation = incarnation
        self.clusters = {ExecutionCluster.DEDICATED: incarnation}
        self._line = line
        self._scripts = Scripts(warehouse, timeout_seconds=timeout_seconds, name=incarnation)
        self._outputs = Outputs(warehouse, timeout_seconds=timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._properties = {**DEFAULTS, **catalog_settings(warehouse), **(properties or {}), **FIXED}
        self._microcents_per_second = microcents_per_second
        self._clock = clock
        self._submissions = EngineOutage(clock, what="submissions", is_away=_is_unsent)
        self._drivers = EngineOutage(clock, what="drivers", is_away=_is_unanswered)
        self._results = EngineOutage(clock, what="results", is_away=_is_unanswered)
        self._book = RunBook(lambda claim: Run(claim, ENGINE), remembered=REMEMBERED)

    @classmethod
    async def open(
        cls,
        master_url: str,
        warehouse: Path,
        *,
        timeout_seconds: float = 30.0,
        ui_url: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> Self:
        """Learn what the warehouse is called, and whether the master takes orders. Raises EngineUnavailable."""
        line = MasterLine(master_url, timeout_seconds=timeout_seconds, ui_url=ui_url, token=token)
        scripts = Scripts(warehouse, timeout_seconds=timeout_seconds)
        try:
            await line.try_orders()
            incarnation = await scripts.name()
        except EngineUnavailable:
            await line.aclose()
            raise
        finally:
            await scripts.aclose()
        return cls(line, warehouse, incarnation=incarnation, timeout_seconds=timeout_seconds, **options)

    # --- as the executor uses it

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        """Begin the job's one driver, however long the master is away; it is told apart by the place of its script.

        Where a submission is not answered, the job is closed and whatever began is killed: it is not known what would.
        """
        run = self._book.add(claim)
        try:
            planned = await self._plan(run)
            sql = statement(planned, self._outputs.place(planned.written))
            await self._results.outlast(self._outputs.prepare)
            script = await self._begin(run, sql)
            submit = partial(self._submit, run, script, permit_left)
            handle = self._started(run, planned, await self._submissions.outlast(submit))
            with contextlib.suppress(EngineUnavailable):  # it helps those alone who have not been told the handle
                await self._scripts.name_driver(claim.tag, handle.run_id)
            return handle
        finally:
            if run.handle is None and not run.unresolved:
                self._book.note_end(run)

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this executor did not start."""
        run = self._book.by_handle(handle)
        if run is None or run.ending is None:
            raise EngineUnavailable(f"handle: {handle.run_id} is no run of this executor", field="handle")
        return await asyncio.shield(run.ending)

    async def close(self, tag: str) -> bool:
        """Take the job's script away for good, and see in the background that its driver ends."""
        run = self._book.close(tag)
        if run is None:
            return True
        self._stop(run)
        try:
            await self._scripts.close(tag)
        except EngineUnavailable as error:
            log.warning("script_not_closed", error=error.message)
            return False
        return not run.unresolved

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs; those without a publication have nothing to show and are left out."""
        orders = {claim.job_id: claim.publication for claim in claims if claim.publication is not None}
        published = await self._outputs.publish(orders) if orders else frozenset()
        await self._forget([claim.tag for claim in claims if claim.job_id in published])
        return published

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader sees, or a script."""
        scripts = [job_of(tag) for tag in await self._scripts.tags("countermand:")]
        return list(dict.fromkeys([*await self._outputs.unpublished(), *(job_id for job_id in scripts if job_id)]))

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that a driver may still write is left for the next time."""
        idle = {job_id: tag for job_id, tag in jobs.items() if await self._is_idle(tag)}
        removed = await self._outputs.discard(idle) if idle else {}
        await self._forget([tag for job_id, tag in idle.items() if job_id not in removed])  # and nothing came anew
        return removed

    def check(self) -> None:
        """A master that does not answer will answer again: nothing here is ever beyond use."""

    async def aclose(self) -> None:
        """Stop every run, wait for a bounded time until all have ended, let go of connections."""
        active = [run for run in self._book.everything() if run.is_active]
        for run in active:
            self._stop(run)
        if endings := [run.ending for run in active if run.ending is not None]:
            _, left = await asyncio.wait(endings, timeout=self._timeout_seconds)
            await _cancel(left)
        await _cancel({run.stopping for run in active if run.stopping is not None})
        await asyncio.gather(self._line.aclose(), self._scripts.aclose(), self._outputs.aclose())

    # --- starting

    async def _plan(self, run: Run) -> Plan:
        """Read in a thread: a long SQL takes seconds."""
        try:
            return await asyncio.to_thread(plan, run.claim, self._microcents_per_second)
        except BadInput as error:
            raise NotStarted(error.message, **run.known(), field=error.field) from error

    async def _begin(self, run: Run, sql: str) -> Path:
        """Nothing was submitted by then, whatever became of the script."""
        run.refuse_closed()
        try:
            return await self._scripts.begin(run.claim.tag, sql)
        except EngineUnavailable as error:
            raise NotStarted(error.message, **run.known()) from error

    async def _submit(self, run: Run, script: Path, permit_left: Callable[[], float]) -> str:
        """Raises MasterError where nothing was sent, to be tried again."""
        submission = self._submission(run.claim, script)
        run.refuse_closed()
        if (left := permit_left()) <= 0:
            raise NotStarted("the permit ran out before it was submitted", **run.known())
        run.unresolved = True
        try:
            async with asyncio.timeout(left):
                driver_id = await self._line.submit(submission)
        except (TimeoutError, MasterError) as error:
            if isinstance(error, MasterError) and (error.nothing_sent or error.refused):
                run.unresolved = False
                if error.nothing_sent:
                    raise
                raise NotStarted(error.message, **run.known()) from error
            await self._end_whatever_began(run, _said(error, left))
        run.unresolved = False
        return driver_id

    def _submission(self, claim: Claim, script: Path) -> dict[str, Any]:
        """The script is also what the worker fetches first: it refuses a driver whose script is closed."""
        return {
            "clientSparkVersion": CLIENT_VERSION,
            "appResource": f"file://{script}",
            "mainClass": MAIN_CLASS,
            "appArgs": ["-f", str(script)],
            "environmentVariables": {},
            "sparkProperties": self._properties
            | {"spark.app.name": claim.tag, "spark.eventLog.dir": f"file://{self._scripts.events(claim.tag)}"},
        }

    async def _end_whatever_began(self, run: Run, said: str) -> NoReturn:
        """A driver may have been created, and be launched at any time. Raises NotStarted once nothing can run."""
        log.warning("submission_unanswered", error=said)
        tag = run.claim.tag
        await self._results.outlast(partial(self._scripts.close, tag))
        drivers = await self._drivers_of(tag)
        for driver_id in drivers:
            await self._kill_until_ended(driver_id, asyncio.create_task(self._end_of(driver_id, tag)))
        run.unresolved = False
        log.info("submission_resolved", run_id=", ".join(drivers) or None)
        message = f"its submission was not answered ({said}), so that it was closed, and nothing of it runs"
        raise NotStarted(message, **run.known())

    async def _drivers_of(self, tag: str) -> list[str]:
        """The drivers of a closed job, once all that have begun have told their names."""
        while True:
            states = await self._results.outlast(partial(self._scripts.states, [tag]))
            if states[tag].is_certain:
                return sorted(states[tag].drivers)
            await self._clock.pause(LONGEST_LOOK_SECONDS)

    def _started(self, run: Run, planned: Plan, driver_id: str) -> Handle:
        handle = Handle(ENGINE, self.incarnation, driver_id)
        self._book.name(run, handle)
        run.ending = asyncio.create_task(self._see_to_the_end(run, planned))
        if run.closed:
            self._stop(run)
        return handle

    # --- ending

    async def _see_to_the_end(self, run: Run, planned: Plan) -> Ending:
        began = self._clock.monotonic()
        fate = await self._end_of(run.run_id, run.claim.tag)
        seconds = self._clock.monotonic() - began
        ending = await self._conclude(run, planned, fate, seconds)
        self._book.note_end(run)
        log.info("run_ended", run_id=run.run_id, status=fate.word, seconds=round(seconds, 3))
        return ending

    async def _end_of(self, driver_id: str, tag: str) -> Fate:
        """How the driver ended, once the master says so and no worker has an executor of it, however long that takes.

        Of one that it does not know it may say nothing for ever, nor the driver itself: then a person has to look.
        """
        pause, is_lost = LOOK_AGAIN_SECONDS, False
        while True:
            fate = await self._fate(driver_id, tag)
            if fate.run_status in ENDED and not await self._has_executors(tag, fate):
                return fate
            if fate.run_status is RunStatus.UNKNOWN and not is_lost:
                is_lost = True
                log.error("run_lost", run_id=driver_id, status=fate.word)
            await self._clock.pause(pause)
            pause = min(1.5 * pause, LONGEST_LOOK_SECONDS)

    async def _has_executors(self, tag: str, fate: Fate) -> bool:
        at = await self._results.outlast(partial(self._scripts.executors_at, [tag])) if fate.is_by_log else ()
        return bool(await self._drivers.outlast(partial(self._line.with_executors, {tag}, at)))

    async def _fate(self, driver_id: str, tag: str) -> Fate:
        fate = await self._drivers.outlast(partial(self._line.fate, driver_id))
        if fate.run_status is not RunStatus.UNKNOWN:
            return fate
        states = await self._results.outlast(partial(self._scripts.states, [tag]))
        return fate._replace(log_ended=driver_id in states[tag].ended)

    async def _conclude(self, run: Run, planned: Plan, fate: Fate, seconds: float) -> Ending:
        if fate.run_status is not RunStatus.SUCCEEDED:
            return self._failed(run, fate.run_status, fate, _why(fate))
        if not await self._is_whole(planned):
            return self._failed(run, RunStatus.ERRORED, fate, "the driver finished, and its output is not whole")
        try:
            rows = await self._rows(planned)
        except EngineUnavailable as error:
            return self._failed(run, RunStatus.ERRORED, fate, error.message)
        if planned.output is None:
            await self._forget([run.claim.tag])
        result = planned.conclude(rows, seconds)
        return Ending(RunStatus.SUCCEEDED, fate.word, self._clock.now(), result=result, dataset_id=planned.dataset_id)

    async def _is_whole(self, planned: Plan) -> bool:
        mark = self._outputs.folder(planned.written) / WHOLE
        return await self._results.outlast(partial(self._scripts.look, mark.is_file))

    async def _rows(self, planned: Plan) -> int:
        """Raises EngineUnavailable."""
        if planned.rows is Rows.ANSWERED:
            return read_answer(await self._results.outlast(partial(self._outputs.take_answer, planned.job_id)))
        if planned.rows is Rows.WRITTEN:
            return await self._scripts.look(partial(count_rows, self._outputs.folder(planned.written)))
        return 0

    def _failed(self, run: Run, status: RunStatus, fate: Fate, message: str) -> Ending:
        now = self._clock.now()
        return Ending(status, fate.word, now, cause=FailureCause(message, now, run.known()))

    def _stop(self, run: Run) -> None:
        if run.ending is not None and run.is_active and run.stopping is None:
            run.stopping = asyncio.create_task(self._kill_until_ended(run.run_id, run.ending))

    async def _kill_until_ended(self, driver_id: str, ending: asyncio.Task[Any]) -> None:
        """What is answered proves nothing: only the run's end ends this."""
        while not ending.done():
            with contextlib.suppress(MasterError):  # whoever watches the run tells of the silence
                await self._line.kill(driver_id)
            await asyncio.wait([ending], timeout=KILL_AGAIN_SECONDS)

    # --- files

    async def _is_idle(self, tag: str) -> bool:
        """Whether no driver may still write for the job, as far as is known here."""
        if any(run.is_active or run.unresolved for run in self._book.everything() if run.claim.tag == tag):
            return False
        state = (await self._scripts.states([tag]))[tag]
        fates = await self._line.fates(state.drivers)
        told = (fate._replace(log_ended=driver_id in state.ended) for driver_id, fate in fates.items())
        return state.is_certain and all(fate.run_status in ENDED for fate in told)

    async def _forget(self, tags: Sequence[str]) -> None:
        with contextlib.suppress(EngineUnavailable):  # what stays is in nobody's way
            await self._scripts.forget(tags)


def _is_unsent(error: BaseException) -> bool:
    return isinstance(error, MasterError) and error.nothing_sent


def _is_unanswered(error: BaseException) -> bool:
    return isinstance(error, EngineUnavailable)


def _said(error: Exception, left: float) -> str:
    if isinstance(error, MasterError):
        return error.message
    return f"no answer within the {left:.3g} s that its permit had left"


def _why(fate: Fate) -> str:
    """The worker's exception, after the line that says that there is one; else where the driver's own words are."""
    lines = [line.strip() for line in fate.message.splitlines() if line.strip()]
    told = next((line for line in lines if not line.startswith("Exception from the cluster")), "")
    where = f"; the worker {fate.worker} keeps what it wrote to its standard error" if fate.worker else ""
    return told or f"the driver ended as {fate.word}{where}"


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
