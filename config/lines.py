"""Lines on a stream: within an event loop all of one turn together, elsewhere each at once.

Settling a hundred cancellations logs a hundred lines; a write for each would hand the interpreter to another thread,
and wait for it, a hundred times.
"""

import asyncio
import atexit
import threading
from typing import BinaryIO


class LineWriter:
    """What structlog calls a logger: one method for each level, each given a line without its end.

    An error is written at once, with what came before it; so is everything when the interpreter exits.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        atexit.register(self.flush)

    def info(self, line: bytes) -> None:
        """Write the line by the end of this turn of the event loop, or now where there is none."""
        with self._lock:
            self._lines.append(line)
            first = len(self._lines) == 1
        loop = asyncio._get_running_loop()  # noqa: SLF001  # documented for this use; the public one raises
        if loop is None:
            self.flush()
        elif first:
            loop.call_soon(self.flush)

    debug = warning = warn = info

    def error(self, line: bytes) -> None:
        """Write the line now."""
        with self._lock:
            self._lines.append(line)
        self.flush()

    exception = critical = fatal = error

    def flush(self) -> None:
        """Write what has not been written."""
        with self._lock:
            lines, self._lines = self._lines, []
            if lines and not self._stream.closed:
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
