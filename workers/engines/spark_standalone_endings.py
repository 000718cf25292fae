"""How a dedicated application ended, by what the master said of its driver and by what it left in the warehouse."""

from adapters.base import RunStatus
from adapters.narrative.spark_standalone_fates import Fate
from control_plane.errors import EngineUnavailable
from workers.clock import Clock
from workers.engines.base import Ending
from workers.engines.run import Run
from workers.engines.spark_plans import Plan
from workers.engines.spark_standalone_files import Files


class Endings:
    """The master does not tell when a driver ended: an ending's moment is that of seeing it."""

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files = files
        self._clock = clock

    async def conclude(self, run: Run, planned: Plan, fate: Fate, seconds: float) -> Ending:
        """The ending of a run that took so long; what is wrong with the job is its cause."""
        if fate.run_status is not RunStatus.SUCCEEDED:
            return self._failed(run, fate.run_status, fate, _why(fate))
        if not await self._files.are_whole(planned):
            return self._failed(run, RunStatus.ERRORED, fate, "the driver finished, and its output is not whole")
        try:
            rows = await self._files.rows(planned)
        except EngineUnavailable as error:
            return self._failed(run, RunStatus.ERRORED, fate, error.message)
        if planned.output is None:
            await self._files.forget([run.claim.tag])
        result = planned.conclude(rows, seconds)
        return Ending(RunStatus.SUCCEEDED, fate.word, self._clock.now(), result=result, dataset_id=planned.dataset_id)

    def _failed(self, run: Run, status: RunStatus, fate: Fate, message: str) -> Ending:
        return run.failed(status, fate.word, message, self._clock.now())


def _why(fate: Fate) -> str:
    """The worker's exception, after the line that says that there is one; else where the driver's own words are."""
    lines = [line.strip() for line in fate.message.splitlines() if line.strip()]
    told = next((line for line in lines if not line.startswith("Exception from the cluster")), "")
    where = f"; the web UI of its worker {fate.worker} shows what it wrote to its standard error" if fate.worker else ""
    return told or f"the driver ended as {fate.word}{where}"
