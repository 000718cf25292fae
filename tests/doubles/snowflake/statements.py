"""One statement, read: which kind it is, what it calls, and its text for DuckDB."""

import re
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from tests.doubles.snowflake import history
from tests.doubles.snowflake.errors import malformed

CALL = re.compile(r"^\s*CALL\s+(?=SYSTEM\$)", re.IGNORECASE)


class HistoryCall:
    """One ``TABLE(INFORMATION_SCHEMA.QUERY_HISTORY…(…))`` of a statement."""

    def __init__(self, node: exp.TableFromRows, call: exp.Anonymous) -> None:
        self.function = call.name.upper()
        self.arguments = {
            argument.this.name.upper(): argument.expression.sql("duckdb")
            for argument in call.expressions
            if isinstance(argument, exp.Kwarg)
        }
        if len(self.arguments) < len(call.expressions):
            raise malformed(f"{self.function} takes named arguments")
        self._node = node

    def read_from(self, table: str) -> None:
        """Let the statement read this table of DuckDB instead."""
        alias = self._node.args.get("alias")
        self._node.replace(exp.Table(this=exp.to_identifier(table), alias=alias))


def parse(sql: str, bindings: dict[str, Any]) -> exp.Expr:
    """The one statement, with its ``?`` filled in. Raises SnowflakeError when it cannot be read."""
    try:
        tree = sqlglot.parse_one(CALL.sub("SELECT ", sql), read="snowflake", error_level=ErrorLevel.IMMEDIATE)
    except SqlglotError as error:
        raise malformed(str(error).splitlines()[0]) from error
    for number, placeholder in enumerate(list(tree.find_all(exp.Placeholder, bfs=False)), start=1):
        placeholder.replace(_literal(bindings.get(str(number))))
    return tree


def history_calls(tree: exp.Expr) -> list[HistoryCall]:
    """The history functions that the statement reads."""
    found = []
    for node in tree.find_all(exp.TableFromRows):
        call = node.this.expression if isinstance(node.this, exp.Dot) else node.this
        if isinstance(call, exp.Anonymous) and call.name.upper() in history.FUNCTIONS:
            found.append(HistoryCall(node, call))
    return found


def is_constant(tree: exp.Expr) -> bool:
    """Whether it is a SELECT that reads nothing."""
    return isinstance(tree, exp.Select) and tree.find(exp.From) is None


def computes(tree: exp.Expr) -> bool:
    """Whether it needs a warehouse: all but a SELECT of constants, and statements that only define."""
    if is_constant(tree):
        return False
    return not isinstance(tree, (exp.Drop, exp.Use)) and not (isinstance(tree, exp.Create) and tree.expression is None)


def kind_of(tree: exp.Expr) -> str:
    """Snowflake's QUERY_TYPE."""
    match tree:
        case exp.Create():
            what = tree.kind or "TABLE"
            return "CREATE_TABLE_AS_SELECT" if tree.expression is not None and what == "TABLE" else f"CREATE_{what}"
        case exp.Query():
            return "SELECT"
        case _:
            return tree.key.upper()


def for_duckdb(tree: exp.Expr) -> str:
    """The text that DuckDB runs."""
    return tree.sql(dialect="duckdb", comments=False)


def _literal(binding: Any) -> exp.Expr:
    if binding is None:
        raise malformed("Bind variable ? not set")
    value = binding["value"]
    if value is None:
        return exp.null()
    match binding["type"]:
        case "FIXED" | "REAL":
            return exp.Literal.number(value)
        case "BOOLEAN":
            return exp.convert(str(value).lower() == "true")
        case _:
            return exp.Literal.string(value)
