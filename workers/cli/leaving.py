"""How the process ends where Snowflake's connector is loaded: not by taking the interpreter down."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

CONNECTOR = "snowflake.connector"


@contextlib.contextmanager
def keep_exit_code() -> Iterator[None]:
    """See that the process ends with the code that this is left with, after all threads and whatever is registered.

    The connector's own threads may still be about to leave Python when the interpreter is taken down. Python ends such
    a thread by force, and the connector's Rust aborts the process for that: everything was done and told, and the exit
    code is 134 (measured with 5.2.0 on Python 3.11).
    """
    left = [1]  # as of an error that nobody caught

    def leave() -> None:
        if CONNECTOR in sys.modules:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                    stream.flush()
            os._exit(left[0])

    atexit.register(leave)  # the first to be registered is the last to be called
    try:
        yield
        left[0] = 0
    except SystemExit as end:
        left[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
