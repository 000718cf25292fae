"""How a run in Snowflake ended, in the executor's words, and its story in one line of the log."""

import contextlib
from functools import partial
from typing import Any

import structlog

from adapters.base import RunStatus
from adapters.snowflake.history import MOST
from adapters.snowflake.line import Line, LineError, literal
from adapters.snowflake.words import Fate
from workers.clock import Clock
from workers.engines.base import Ending
from workers.engines.snowflake_plans import Plan, Rows
from workers.engines.snowflake_run import SnowflakeRun
from workers.outage import Outage

log = structlog.get_logger()


class Endings:
    """Snowflake does not tell with a status when a query ended: an ending's moment is that of seeing it."""

    def __init__(self, line: Line, outage: Outage, clock: Clock) -> None:
        self._line = line
        self._outage = outage
        self._clock = clock

    async def conclude(self, run: SnowflakeRun, planned: Plan, fate: Fate, seconds: float) -> Ending:
        """The ending of a run that took so long; what is wrong with the job is its cause."""
        if fate.run_status is not RunStatus.SUCCEEDED:
            return self._failed(run, fate.run_status, fate, fate.message or fate.word)
        try:
            rows = await self._outage.outlast(partial(self._rows, run, planned))
        except LineError as error:
            return self._failed(run, RunStatus.ERRORED, fate, f"its result cannot be read: {error.message}")
        result = planned.conclude(rows, seconds)
        return Ending(RunStatus.SUCCEEDED, fate.word, self._clock.now(), result=result, dataset_id=planned.dataset_id)

    async def tell(self, run: SnowflakeRun, fate: Fate, seconds: float) -> None:
        """Log the run's end, with what the history has by now: it may lag."""
        told: dict[str, Any] = {}
        with contextlib.suppress(LineError):
            told = await self._history(run.run_id)
        log.info(
            "run_ended",
            query_id=run.run_id,
            status=fate.status,
            seconds=told.get("seconds", round(seconds, 3)),
            rows=told.get("rows"),
            credits=told.get("credits"),
        )

    async def _rows(self, run: SnowflakeRun, planned: Plan) -> int:
        if planned.rows is Rows.UNWANTED:
            return 0
        if planned.rows is Rows.WRITTEN:
            [(rows,)] = await self._line.ask(f"SELECT COUNT(*) FROM {planned.output}")  # noqa: S608  our own name
        else:
            [(rows,)] = await self._line.result(run.run_id)
        return int(rows)

    def _failed(self, run: SnowflakeRun, status: RunStatus, fate: Fate, message: str) -> Ending:
        told = f"{message}; {run.remark}" if run.remark else message
        return run.failed(status, fate.word, told, self._clock.now(), code=fate.code)

    async def _history(self, query_id: str) -> dict[str, Any]:
        columns = "ROWS_PRODUCED, TOTAL_ELAPSED_TIME / 1000, CREDITS_USED_CLOUD_SERVICES"
        user = literal((await self._line.identity()).user)
        history = f"INFORMATION_SCHEMA.QUERY_HISTORY_BY_USER(USER_NAME => {user}, RESULT_LIMIT => {MOST})"
        found = await self._line.ask(
            f"SELECT {columns} FROM TABLE({history}) WHERE QUERY_ID = {literal(query_id)} AND END_TIME IS NOT NULL"  # noqa: S608  quoted
        )
        named = (zip(("rows", "seconds", "credits"), row, strict=True) for row in found)
        return {name: float(value) for row in named for name, value in row if value is not None}
