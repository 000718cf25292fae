"""Functions that answer for the account and not for data: ``SYSTEM$…`` and ``CURRENT_…``.

They are evaluated first, once each and in their order, and put into the statement as literals; the rest is DuckDB's.
"""

from collections.abc import Callable

from sqlglot import exp

from tests.doubles.snowflake.errors import malformed
from tests.doubles.snowflake.queries import Query
from tests.doubles.snowflake.sessions import Session
from tests.doubles.snowflake.stopping import Stopper

Context = Callable[[Session], str | int | None]
System = Callable[[Query, str], str]

CONTEXT: dict[str, Context] = {
    "CURRENT_ACCOUNT": lambda session: session.account,
    "CURRENT_DATABASE": lambda session: session.database,
    "CURRENT_REGION": lambda _: "LOCAL",
    "CURRENT_ROLE": lambda session: session.role,
    "CURRENT_SCHEMA": lambda session: session.schema,
    "CURRENT_SESSION": lambda session: str(session.session_id),
    "CURRENT_USER": lambda session: session.user,
    "CURRENT_VERSION": lambda _: "9.0.0 (double)",
    "CURRENT_WAREHOUSE": lambda session: session.warehouse,
}


class Functions:
    """Evaluates them for a query."""

    def __init__(self, stopper: Stopper) -> None:
        self._system: dict[str, System] = {
            "SYSTEM$CANCEL_QUERY": lambda query, given: stopper.cancel_query(query.session, given),
            "SYSTEM$CANCEL_ALL_QUERIES": stopper.cancel_all_queries,
            "SYSTEM$ABORT_SESSION": stopper.abort_session,
            "SYSTEM$WAIT": _wait,
        }

    def called(self, tree: exp.Expr) -> list[str]:
        """The names of the system functions in the statement, one per call."""
        return [name for call in tree.find_all(exp.Func) if (name := _name(call)) in self._system]

    def evaluate(self, tree: exp.Expr, query: Query) -> None:
        """Put their answers in their place. The first that raises SnowflakeError ends the statement."""
        _keep_names(tree)
        for call in list(tree.find_all(exp.Func, bfs=False)):
            name = _name(call)
            if name in CONTEXT:
                call.replace(exp.convert(CONTEXT[name](query.session)))
            elif name in self._system:
                call.replace(exp.convert(self._system[name](query, _constant(call))))


def _wait(query: Query, seconds: str) -> str:
    query.check("RUNNING")
    query.stopping.wait(float(seconds))
    query.check("RUNNING")
    return f"waited {seconds} seconds"


def _name(call: exp.Func) -> str:
    name = call.name if isinstance(call, exp.Anonymous) else call.sql_name()
    return name.upper()


def _constant(call: exp.Func) -> str:
    """Snowflake takes nothing but a constant here."""
    argument = call.expressions[0] if call.expressions else None
    if not isinstance(argument, exp.Literal):
        raise malformed(f"argument 1 to function {_name(call)} needs to be constant")
    return argument.name


def _keep_names(tree: exp.Expr) -> None:
    """A column without an alias is named after its text, which is about to be replaced."""
    if isinstance(tree, exp.Select):
        for column in list(tree.expressions):
            if not isinstance(column, (exp.Alias, exp.Column, exp.Star)):
                column.replace(exp.alias_(column.copy(), column.sql("snowflake").upper(), quoted=True))
