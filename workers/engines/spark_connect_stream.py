"""The stream of a run on a Connect server: what comes of it, however often the stream is lost on the way."""

from functools import partial
from typing import Any, NamedTuple

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_line import Line
from control_plane.errors import EngineUnavailable
from workers.engines.spark_connect_run import ConnectRun
from workers.outage import Outage


class Said(NamedTuple):
    """What came of a run's stream: the rows, in Arrow's format, or the error that it ended with."""

    arrow: tuple[bytes, ...] = ()
    error: LineError | None = None

    def number(self) -> int:
        """The one number in the one row that came. Raises EngineUnavailable where it did not. Blocks."""
        import pyarrow as pa

        try:
            rows = [row for part in self.arrow for row in pa.ipc.open_stream(part).read_all().to_pylist()]
            [row] = rows
            return int(row["rows"])
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"{len(self.arrow)} batches hold no single number") from error


class Stream:
    """Of one run: begun once, which submits its plan, and each time that it was lost taken up where it was."""

    def __init__(self, line: Line, run: ConnectRun, plan: Any) -> None:
        self._line = line
        self._run = run
        self._plan = plan
        self._submitted = False
        self._last: str | None = None  #: the id of the latest response
        self._arrow: list[bytes] = []

    async def read(self, outage: Outage) -> Said:
        """Read it to its end."""
        try:
            while not await outage.outlast(self._read_on):
                pass
        except LineError as error:
            return Said(error=error)
        return Said(tuple(self._arrow))

    async def _read_on(self) -> bool:
        """Whether that was its end. Raises LineError."""
        session, operation_id = self._run.operation
        again = partial(self._line.reattach, session, operation_id, self._last)
        first = partial(self._line.execute, session, operation_id, self._plan, tag=self._run.claim.tag)
        stream, self._submitted = again() if self._submitted else first(), True
        async for batch in stream:
            self._last = batch.response_id
            self._arrow.extend([batch.arrow] if batch.arrow else [])
            if batch.complete:
                return True
        return False
