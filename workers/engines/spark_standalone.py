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

from adapters.narrative.spark_outputs import Outputs
from adapters.narrative.spark_standalone_line import ENGINE, MasterError, MasterLine
from adapters.narrative.spark_standalone_scripts import Scripts
from control_plane.errors import EngineUnavailable
from control_plane.jobs import ExecutionCluster, Handle, JobType
from control_plane.work import Claim
from workers.clock import Clock
from workers.engines.base import Ending
from workers.engines.run import Run
from workers.engines.run_book import RunBook
from workers.engines.spark_plans import TYPES, Plan, plan, statement
from workers.engines.spark_standalone_drivers import Drivers
from workers.engines.spark_standalone_endings import Endings
from workers.engines.spark_standalone_files import Files
from workers.engines.spark_standalone_submission import properties_of, submission
from workers.outage import EngineOutage

log = structlog.get_logger()


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
        self._properties = properties_of(warehouse, properties or {})
        self._microcents_per_second = microcents_per_second
        self._clock = clock
        self._submissions = EngineOutage(clock, what="submissions", is_away=_is_unsent)
        self._results = EngineOutage(clock, what="results", is_away=_is_unanswered)
        master = EngineOutage(clock, what="drivers", is_away=_is_unanswered)
        self._drivers = Drivers(line, self._scripts, outage=master, files_outage=self._results, clock=clock)
        self._files = Files(self._scripts, self._outputs, self._results)
        self._endings = Endings(self._files, clock)
        self._book = RunBook(lambda claim: Run(claim, ENGINE), self._ask_to_stop)

    @classmethod
    async def open(
        cls,
        master_url: str,
        warehouse: Path,
        *,
        ui_url: str,
        timeout_seconds: float = 30.0,
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
        with self._book.starting(claim) as run:
            planned = await run.plan(partial(plan, microcents_per_second=self._microcents_per_second))
            script = await self._begin(run, planned)
            submit = partial(self._submit, run, script, permit_left)
            driver_id = await self._submissions.outlast(submit)
            handle = Handle(ENGINE, self.incarnation, driver_id)
            self._book.begin(run, handle, partial(self._end_of, run, planned))
            with contextlib.suppress(EngineUnavailable):  # it helps those alone who have not been told the handle
                await self._scripts.name_driver(claim.tag, driver_id)
            return handle

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this executor did not start."""
        return await self._book.follow(handle)

    async def close(self, tag: str) -> bool:
        """Take the job's script away for good, and see in the background that its driver ends."""
        run = self._book.close(tag)
        if run is None:
            return True
        try:
            await self._scripts.close(tag)
        except EngineUnavailable as error:
            log.warning("script_not_closed", error=error.message)
            return False
        return not run.unresolved

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs; those without a publication have nothing to show and are left out."""
        return await self._files.publish(claims)

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader sees, or a script."""
        return await self._files.unpublished()

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that a driver may still write is left for the next time."""
        idle = self._book.idle(jobs)
        ended = {job_id: tag for job_id, tag in idle.items() if await self._drivers.have_ended(tag)}
        return await self._files.discard(ended)

    def check(self) -> None:
        """A master that does not answer will answer again: nothing here is ever beyond use."""

    async def aclose(self) -> None:
        """Stop every run, wait for a bounded time until all have ended, let go of connections."""
        await self._book.end_all(within_seconds=self._timeout_seconds)
        await asyncio.gather(self._line.aclose(), self._scripts.aclose(), self._outputs.aclose())

    # --- starting

    async def _begin(self, run: Run, planned: Plan) -> Path:
        """The place of the job's script. Nothing was submitted by then, whatever became of it."""
        sql = statement(planned, self._outputs.place(planned.written))
        await self._results.outlast(self._outputs.prepare)
        run.refuse_closed()
        try:
            return await self._scripts.begin(run.claim.tag, sql)
        except EngineUnavailable as error:
            raise run.not_started(error.message) from error

    async def _submit(self, run: Run, script: Path, permit_left: Callable[[], float]) -> str:
        """Raises MasterError where nothing was sent, to be tried again."""
        asked = submission(run.claim.tag, script, self._scripts.events(run.claim.tag), self._properties)
        left = run.begin_submission(permit_left)
        try:
            async with asyncio.timeout(left):
                driver_id = await self._line.submit(asked)
        except (TimeoutError, MasterError) as error:
            if isinstance(error, MasterError) and (error.nothing_sent or error.refused):
                run.unresolved = False
                if error.nothing_sent:
                    raise
                raise run.not_started(error.message) from error
            await self._end_whatever_began(run, _said(error, left))
        run.unresolved = False
        return driver_id

    async def _end_whatever_began(self, run: Run, said: str) -> NoReturn:
        """A driver may have been created, and be launched at any time. Raises NotStarted once nothing can run."""
        log.warning("submission_unanswered", error=said)
        await self._results.outlast(partial(self._scripts.close, run.claim.tag))
        drivers = await self._drivers.end_all_of(run.claim.tag)
        run.unresolved = False
        log.info("submission_resolved", run_id=", ".join(drivers) or None)
        raise run.not_started(
            f"its submission was not answered ({said}), so that it was closed, and nothing of it runs"
        )

    # --- ending

    async def _end_of(self, run: Run, planned: Plan) -> Ending:
        began = self._clock.monotonic()
        fate = await self._drivers.end_of(run.run_id, run.claim.tag)
        seconds = self._clock.monotonic() - began
        ending = await self._endings.conclude(run, planned, fate, seconds)
        log.info("run_ended", run_id=run.run_id, status=fate.word, seconds=round(seconds, 3))
        return ending

    async def _ask_to_stop(self, run: Run) -> None:
        await self._line.kill(run.run_id)


def _is_unsent(error: BaseException) -> bool:
    return isinstance(error, MasterError) and error.nothing_sent


def _is_unanswered(error: BaseException) -> bool:
    return isinstance(error, EngineUnavailable)


def _said(error: Exception, left: float) -> str:
    if isinstance(error, MasterError):
        return error.message
    return f"no answer within the {left:.3g} s that its permit had left"
