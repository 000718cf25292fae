"""One statement, read: which kind it is, what it calls, and its text for DuckDB."""

import re
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers

from tests.doubles.snowflake import history
from tests.doubles.snowflake.errors import SnowflakeError, malformed
from tests.doubles.snowflake.sessions import Session

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
    tree = normalize_identifiers(_parse_one(CALL.sub("SELECT ", sql)), dialect="snowflake")
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


def columns_named(tree: exp.Expr) -> set[str] | None:
    """The columns that the statement names; None where it asks for all that there are."""
    if any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star)):
        return None
    return {column.name.upper() for column in tree.find_all(exp.Column)} or None


def quoted_names(tree: exp.Expr) -> set[str]:
    """The names that keep their small letters."""
    return {name.name for name in tree.find_all(exp.Identifier) if name.args.get("quoted")}


def changed_tables(tree: exp.Expr, session: Session) -> list[str]:
    """What the statement locks: the table that it changes or defines. An INSERT locks nothing."""
    if not isinstance(tree, (exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter)):
        return []
    table = tree.this.find(exp.Table) if isinstance(tree.this, exp.Expr) else None
    if table is None:
        return []
    return [f"{table.catalog or session.database}.{table.db or session.schema}.{table.name}"]


def read_information_schema(tree: exp.Expr, session: Session) -> None:
    """Let ``INFORMATION_SCHEMA`` be that of one database; DuckDB's shows all of them."""
    for table in list(tree.find_all(exp.Table)):
        if table.db == "INFORMATION_SCHEMA":
            database = table.catalog or session.database
            view = exp.table_(table.name.lower(), db="information_schema")
            wanted = exp.column("table_catalog").eq(exp.Literal.string(database))
            table.replace(exp.select("*").from_(view).where(wanted).subquery(table.alias_or_name))


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
    """The text that DuckDB runs; a database is one more in memory."""
    if isinstance(tree, exp.Create) and tree.kind == "DATABASE":
        name = tree.this.name
        return f"ATTACH IF NOT EXISTS ':memory:' AS {name}; CREATE SCHEMA IF NOT EXISTS {name}.PUBLIC"
    if isinstance(tree, exp.Drop) and tree.args.get("kind") == "DATABASE":
        return f"DETACH {tree.find(exp.Identifier)}"
    return tree.sql(dialect="duckdb", comments=False)


def _parse_one(sql: str) -> exp.Expr:
    try:
        found = [tree for tree in sqlglot.parse(sql, read="snowflake", error_level=ErrorLevel.IMMEDIATE) if tree]
    except SqlglotError as error:
        raise malformed(str(error).splitlines()[0]) from error
    if len(found) != 1:
        raise SnowflakeError(
            "000008", f"Actual statement count {len(found)} did not match the desired statement count 1.", "0A000"
        )
    return found[0]


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
