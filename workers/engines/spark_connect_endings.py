"""How a run on a Connect server ended, by its last state, what came of its stream, and what it wrote."""

import asyncio

from adapters.base import RunStatus
from adapters.narrative.spark_connect_words import STATUSES
from adapters.narrative.spark_outputs import Outputs
from control_plane.errors import EngineUnavailable
from workers.clock import Clock
from workers.engines.base import Ending
from workers.engines.spark_connect_run import ConnectRun
from workers.engines.spark_connect_stream import Said
from workers.engines.spark_plans import Plan, Rows, count_rows


class Endings:
    """Connect does not tell when an operation ended: an ending's moment is that of seeing it."""

    def __init__(self, outputs: Outputs, clock: Clock) -> None:
        self._outputs = outputs
        self._clock = clock

    async def conclude(self, run: ConnectRun, planned: Plan, said: Said, state: str, seconds: float) -> Ending:
        """The ending of a run that took so long; what is wrong with the job is its cause."""
        status = STATUSES.get(state, RunStatus.GONE)
        if status is not RunStatus.SUCCEEDED:
            message = said.error.message if said.error else f"what became of it is not known: {state}"
            return self._failed(run, status, state, message, said.error.condition if said.error else None)
        try:
            rows = await self._rows(planned, said)
        except EngineUnavailable as error:
            return self._failed(run, RunStatus.ERRORED, state, f"its result cannot be read: {error.message}")
        result = planned.conclude(rows, seconds)
        return Ending(status, state, self._clock.now(), result=result, dataset_id=planned.dataset_id)

    async def _rows(self, planned: Plan, said: Said) -> int:
        if planned.rows is Rows.ANSWERED:
            return await asyncio.to_thread(said.number)
        if planned.rows is Rows.WRITTEN and planned.output is not None:
            return await asyncio.to_thread(count_rows, self._outputs.folder(planned.output))
        return 0

    def _failed(
        self, run: ConnectRun, status: RunStatus, word: str, message: str, condition: str | None = None
    ) -> Ending:
        return run.failed(status, word, message, self._clock.now(), condition=condition)
