"""Compiled SQL, checked: Spark's, which is put into DuckDB's words or stays as it is, and Snowflake's, which stays.

Only one query is let through. On DuckDB and Spark also only over the plane's data: a job's SQL must not write,
configure, or reach for files and networks. DuckDB's own external access is switched off as well; this gives the clear
sentence. What a query may read in Snowflake, the role's privileges decide.
"""

import re

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from control_plane.errors import BadInput

READABLE = ("datasets", "samples")
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "generateseries", "explode", "unnest", "inline", "stack"})
OUTWARD = re.compile(r"^(read|sniff|parquet|load|install|pragma|copy|write|import|export|sleep)_|_scan$")
OUTWARD_NAMES = frozenset({"glob", "getenv", "query", "query_table", "checkpoint", "force_checkpoint", "nextval"})
JVM_NAMES = frozenset({"java_method", "reflect", "try_reflect"})
#: What Spark reads in another way than the parser here. By it a statement might pass as a text or a comment.
READ_OTHERWISE = {
    "${": re.compile(r"\$\{"),  # Spark puts its own settings and the server's environment in the place of ${…}
    "a text in dollars": re.compile(r"\$\w*\$"),
    "a backslash at the end of a line": re.compile(r"\\\r?\n"),  # a comment goes on
    "a backslash in a raw text": re.compile(r"""\b[rR](?:'[^']*\\|"[^"]*\\)"""),
    "a backslash beside a semicolon": re.compile(r"\\.*;|;.*\\", re.DOTALL),  # Spark's command line splits at these
}
CHANGES = (exp.DDL, exp.DML, exp.Into, exp.Command, exp.QueryTransform)


def translate(sql: str) -> str:
    """The DuckDB text of one Spark query. Raises BadInput, naming the field ``compiled_sql``, for anything else."""
    query = _read(sql, "spark")
    _refuse_functions(query)
    _refuse_foreign_tables(query)
    return _written(query)


def untranslated(sql: str) -> str:
    """The text of one Spark query, fit to be put on lines of its own within a statement for Spark itself.

    Raises BadInput, naming the field ``compiled_sql``, for anything else, for tables that are not the plane's, and for
    functions that call into the JVM. A text that Spark might read in another way than it was checked is refused.
    """
    text = sql.strip("; \t\r\n")
    for what, pattern in READ_OTHERWISE.items():
        if pattern.search(text):
            raise _refused(f"{what} is not allowed: Spark might read on in another way than was checked")
    query = _read(text, "spark")
    _refuse_functions(query)
    for function in query.find_all(exp.Func):
        if _name(function) in JVM_NAMES:
            raise _refused(f"the function {_name(function)} is not allowed: it calls whatever the server has")
    _refuse_foreign_tables(query)
    return text


def plain(sql: str) -> str:
    """The text of one Snowflake query, fit to be put on lines of its own within a statement.

    Raises BadInput, naming the field ``compiled_sql``, for anything else, and for functions that act on the account: by
    them one job could stop another. IDENTIFIER may name tables and columns, and no function: it could be one of those.
    """
    query = _read(sql, "snowflake")
    for name in query.find_all(exp.DynamicIdentifier):
        if name.expressions or "system$" in name.sql().lower():
            raise _refused("a function that IDENTIFIER names is not allowed: it may act on the account")
    for function in query.find_all(exp.Func):
        if _name(function).startswith("system$"):
            raise _refused(f"the function {_name(function)} is not allowed: it acts on the account")
    return sql.strip("; \t\r\n")


def _refused(message: str) -> BadInput:
    return BadInput(f"compiled_sql: {message}", field="compiled_sql")


def _read(sql: str, dialect: str) -> exp.Query:
    query = _parse(sql, dialect)
    _refuse_changes(query)
    return query


def _parse(sql: str, dialect: str) -> exp.Query:
    try:
        statements = [statement for statement in sqlglot.parse(sql, read=dialect) if statement is not None]
    except SqlglotError as error:
        raise _refused(f"not valid {dialect.capitalize()} SQL: {_first_line(error)}") from error
    except RecursionError as error:
        raise _refused("nested too deeply to be read") from error
    if len(statements) != 1:
        raise _refused(f"exactly one SELECT is allowed, not {len(statements)} statements")
    (statement,) = statements
    if not isinstance(statement, exp.Query):
        raise _refused(f"exactly one SELECT is allowed, not {statement.key.upper()}")
    return statement


def _first_line(error: SqlglotError) -> str:
    plain = re.sub(r"\x1b\[\d*m", "", str(error))  # sqlglot underlines the place for a terminal
    return plain.strip().splitlines()[0]


def _refuse_changes(query: exp.Query) -> None:
    for node in query.find_all(*CHANGES):
        if not isinstance(node, exp.Query):
            raise _refused(f"a SELECT may not contain {node.key.upper()}")


def _refuse_functions(query: exp.Query) -> None:
    for table in query.find_all(exp.Table):
        if isinstance(table.this, exp.Func) and _name(table.this) not in TABLE_FUNCTIONS:
            raise _refused(f"the table function {_name(table.this)} is not allowed")
    for function in query.find_all(exp.Func):
        if _name(function) in OUTWARD_NAMES or OUTWARD.search(_name(function)):
            raise _refused(f"the function {_name(function)} is not allowed: it reaches outside of the query")


def _name(function: exp.Func) -> str:
    name = function.name if isinstance(function, exp.Anonymous) else function.sql_name()
    return name.lower()


def _refuse_foreign_tables(query: exp.Query) -> None:
    own = {cte.alias_or_name.lower() for cte in query.find_all(exp.CTE)}
    for table in query.find_all(exp.Table):
        if table.find_ancestor(exp.Hint):
            continue  # the name of a table that the query has elsewhere
        if not isinstance(table.this, exp.Func) and not _is_readable([part.name.lower() for part in table.parts], own):
            raise _refused(
                f"the table {'.'.join(part.name for part in table.parts)} is not allowed; a job reads "
                + " and ".join(f"narrative.{schema}.<name>" for schema in READABLE)
            )


def _is_readable(parts: list[str], own: set[str]) -> bool:
    if len(parts) == 1:
        return parts[0] in own
    return len(parts) == 3 and parts[0] == "narrative" and parts[1] in READABLE


def _written(query: exp.Query) -> str:
    try:
        return query.sql(dialect="duckdb", comments=False, unsupported_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise _refused(f"cannot be run on DuckDB: {_first_line(error)}") from error
    except RecursionError as error:
        raise _refused("nested too deeply to be read") from error
