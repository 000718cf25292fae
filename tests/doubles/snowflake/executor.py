"""Runs each query in a thread of its own, from its submission to its end."""

import threading

from tests.doubles.snowflake.errors import SnowflakeError, incident
from tests.doubles.snowflake.interpreter import Interpreter
from tests.doubles.snowflake.queries import Query, Status


class Executor:
    """A query that was given to it ends, whatever happens to it."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter

    def start(self, query: Query) -> None:
        """Returns at once."""
        threading.Thread(target=self._run, args=(query,), name=query.query_id, daemon=True).start()

    def _run(self, query: Query) -> None:
        try:
            query.succeed(self._interpreter.perform(query))
        except SnowflakeError as error:
            query.fail(error)
        except Exception as error:  # noqa: BLE001  the thread's boundary: Snowflake calls it an incident
            query.fail(incident(repr(error)), Status.FAILED_WITH_INCIDENT)
