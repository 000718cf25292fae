"""The drivers of a standalone master, which are followed until they have ended, however long it is away.

The master says of a driver how it is, by its id. Which drivers a job has, and whether an application has told its end,
the warehouse knows: by the job's script and its event log.
"""

import asyncio
from functools import partial

import structlog

from adapters.base import ENDED, RunStatus
from adapters.narrative.spark_standalone_fates import Fate
from adapters.narrative.spark_standalone_line import LOOK_AGAIN_SECONDS, MasterLine
from adapters.narrative.spark_standalone_scripts import Scripts
from workers.clock import Clock
from workers.engines.run import ask_until_ended
from workers.outage import Outage

log = structlog.get_logger()

LONGEST_LOOK_SECONDS = 1.0


class Drivers:
    """*outage* is the master's, *files_outage* the warehouse's."""

    def __init__(
        self, line: MasterLine, scripts: Scripts, *, outage: Outage, files_outage: Outage, clock: Clock
    ) -> None:
        self._line = line
        self._scripts = scripts
        self._outage = outage
        self._files_outage = files_outage
        self._clock = clock

    async def end_of(self, driver_id: str, tag: str) -> Fate:
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

    async def end_all_of(self, tag: str) -> list[str]:
        """Kill whatever has begun of a closed job, until it has ended; answers what that was."""
        drivers = await self._all_of(tag)
        for driver_id in drivers:
            ending = asyncio.create_task(self.end_of(driver_id, tag))
            await ask_until_ended(partial(self._line.kill, driver_id), ending)
        return drivers

    async def have_ended(self, tag: str) -> bool:
        """Whether no driver of the job is left, nor can come. Raises EngineUnavailable."""
        state = (await self._scripts.states([tag]))[tag]
        fates = await self._line.fates(state.drivers)
        told = (fate._replace(log_ended=driver_id in state.ended) for driver_id, fate in fates.items())
        return state.is_certain and all(fate.run_status in ENDED for fate in told)

    async def _has_executors(self, tag: str, fate: Fate) -> bool:
        at = await self._files_outage.outlast(partial(self._scripts.executors_at, [tag])) if fate.is_by_log else ()
        return bool(await self._outage.outlast(partial(self._line.with_executors, {tag}, at)))

    async def _fate(self, driver_id: str, tag: str) -> Fate:
        fate = await self._outage.outlast(partial(self._line.fate, driver_id))
        if fate.run_status is not RunStatus.UNKNOWN:
            return fate
        states = await self._files_outage.outlast(partial(self._scripts.states, [tag]))
        return fate._replace(log_ended=driver_id in states[tag].ended)

    async def _all_of(self, tag: str) -> list[str]:
        """The drivers of a closed job, once all that have begun have told their names."""
        while True:
            states = await self._files_outage.outlast(partial(self._scripts.states, [tag]))
            if states[tag].is_certain:
                return sorted(states[tag].drivers)
            await self._clock.pause(LONGEST_LOOK_SECONDS)
