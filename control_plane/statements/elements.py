"""Where the two databases differ: the elements that compile to each one's own words.

Parameters that statements share: ``rows``, a JSON array that stands for a table (:func:`rows`), and ``clock``, which is
NULL in production and a fixed moment in tests (:func:`now`).
"""

from typing import Any, Self

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Float,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine, to_instance

from control_plane.schema import (
    Document,
    Moment,
)
from control_plane.work import News

CHANNEL = "countermand"  #: where Postgres tells of new work; the payload is the plane's id, and of what it has news


class _JsonArray(Text):
    """The parameter of :func:`rows`: jsonb on Postgres, parsed once for all fields; text on SQLite."""


@compiles(_JsonArray, "postgresql")
def _(kind: _JsonArray, compiler: Any, **keywords: Any) -> str:
    return "JSONB"


@compiles(_JsonArray, "sqlite")
def _(kind: _JsonArray, compiler: Any, **keywords: Any) -> str:
    return "TEXT"


class _JsonItems(FunctionElement[Any]):
    """The items of a JSON array, as a table with the column ``value``."""

    name = "json_items"
    inherit_cache = True


@compiles(_JsonItems, "postgresql")
def _(items: _JsonItems, compiler: Any, **keywords: Any) -> str:
    return f"jsonb_array_elements{compiler.process(items.clause_expr, **keywords)}"


@compiles(_JsonItems, "sqlite")
def _(items: _JsonItems, compiler: Any, **keywords: Any) -> str:
    return f"json_each{compiler.process(items.clause_expr, **keywords)}"


class _Member(FunctionElement[Any]):
    """A document within a document; SQL NULL where it is JSON's null."""

    type = Document()
    name = "member"
    inherit_cache = True


@compiles(_Member, "postgresql")
def _(member: _Member, compiler: Any, **keywords: Any) -> str:
    document, key = (compiler.process(clause, **keywords) for clause in member.clauses)
    return f"NULLIF({document} -> {key}, 'null')"


@compiles(_Member, "sqlite")
def _(member: _Member, compiler: Any, **keywords: Any) -> str:
    document, key = (compiler.process(clause, **keywords) for clause in member.clauses)
    return f"{document} ->> {key}"


def rows(parameter: str = "rows", **kinds: TypeEngine[Any] | type[TypeEngine[Any]]) -> CTE:
    """The table that the JSON array ``:parameter`` stands for: an object a row, with these columns."""
    items = _JsonItems(cast(bindparam(parameter, type_=Text), _JsonArray)).table_valued(
        "value", name=f"{parameter}_item"
    )
    return select(*(_field(items.c.value, name, kind) for name, kind in kinds.items())).cte(f"{parameter}_row")


def _field(item: ColumnElement[Any], name: str, kind: TypeEngine[Any] | type[TypeEngine[Any]]) -> ColumnElement[Any]:
    key = literal_column(f"'{name}'", Text)
    kind = to_instance(kind)
    if isinstance(kind, Document):
        return _Member(item, key).label(name)
    value = cast(item.op("->>")(key), kind)
    if isinstance(kind, Moment):
        return shifted(value, literal_column("0.0", Float)).label(name)  # brings RFC 3339 into SQLite's own form
    return value.label(name)


class among(FunctionElement[bool]):  # noqa: N801  # reads as the operator that it is
    """``among(column, subquery, …)``: the column is one of the answers.

    On Postgres ``= ANY(ARRAY(…))``: with stale statistics an ``IN`` with a LIMIT was planned as a join over the table.
    """

    type = Boolean()
    name = "among"
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], *subqueries: Select[Any]) -> None:
        super().__init__(column, *(query.correlate(None).scalar_subquery() for query in subqueries))

    def self_group(self, against: Any = None) -> Self:  # noqa: ARG002  # SQLAlchemy's signature
        """Itself: as a truth value SQLite would be asked whether it equals 1, and would look at every row."""
        return self


@compiles(among, "postgresql")
def _(element: among, compiler: Any, **keywords: Any) -> str:
    column, *queries = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"{column} = ANY({' || '.join(f'ARRAY{query}' for query in queries)})"


@compiles(among, "sqlite")
def _(element: among, compiler: Any, **keywords: Any) -> str:
    column, *queries = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"{column} IN ({' UNION ALL '.join(f'SELECT * FROM {query}' for query in queries)})"  # noqa: S608  # compiled


class json_object(FunctionElement[Any]):  # noqa: N801  # a function's name, as in sqlalchemy.func
    """``json_object(name=value, …)``: one JSON object, as msgspec reads our nouns; moments are RFC 3339."""

    type = Document()
    name = "json_object"
    inherit_cache = True

    def __init__(self, **members: ColumnElement[Any]) -> None:
        super().__init__(*(part for name, value in members.items() for part in (literal_column(f"'{name}'"), value)))


@compiles(json_object, "postgresql")
def _(element: json_object, compiler: Any, **keywords: Any) -> str:
    return f"json_build_object({', '.join(compiler.process(part, **keywords) for part in element.clauses)})"


@compiles(json_object, "sqlite")
def _(element: json_object, compiler: Any, **keywords: Any) -> str:
    return f"json_object({', '.join(_sqlite_member(part, compiler, keywords) for part in element.clauses)})"


def _sqlite_member(part: Any, compiler: Any, keywords: dict[str, Any]) -> str:
    """SQLite keeps documents and moments as text, and has no truth values; what is no document becomes a string."""
    text: str = compiler.process(part, **keywords)
    if isinstance(part.type, Document):
        return f"json(CASE WHEN json_valid({text}) THEN {text} ELSE json_quote({text}) END)"
    if isinstance(part.type, Moment):
        return f"strftime('%Y-%m-%dT%H:%M:%fZ', {text})"
    return f"json(CASE WHEN {text} THEN 'true' ELSE 'false' END)" if isinstance(part.type, Boolean) else text


class _DatabaseTime(FunctionElement[Any]):
    type = Moment()
    name = "database_time"
    inherit_cache = True


@compiles(_DatabaseTime, "postgresql")
def _(element: _DatabaseTime, compiler: Any, **keywords: Any) -> str:
    return "now()"


@compiles(_DatabaseTime, "sqlite")
def _(element: _DatabaseTime, compiler: Any, **keywords: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


class shifted(FunctionElement[Any]):  # noqa: N801  # a function's name, as in sqlalchemy.func
    """``shifted(moment, seconds)``: that many seconds later."""

    type = Moment()
    name = "shifted"
    inherit_cache = True


@compiles(shifted, "postgresql")
def _(element: shifted, compiler: Any, **keywords: Any) -> str:
    moment, seconds = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"({moment} + make_interval(secs => {seconds}))"


@compiles(shifted, "sqlite")
def _(element: shifted, compiler: Any, **keywords: Any) -> str:
    moment, seconds = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"strftime('%Y-%m-%d %H:%M:%f', {moment}, printf('%+.3f seconds', {seconds}))"


class _Woken(FunctionElement[Any]):
    """Tells the listeners of a channel; SQLite has none, there the poll finds the work."""

    type = Text()
    name = "woken"
    inherit_cache = True


@compiles(_Woken, "postgresql")
def _(element: _Woken, compiler: Any, **keywords: Any) -> str:
    return f"pg_notify{compiler.process(element.clause_expr, **keywords)}"


@compiles(_Woken, "sqlite")
def _(element: _Woken, compiler: Any, **keywords: Any) -> str:
    return "NULL"


class _Locked(FunctionElement[Any]):
    """Lets one transaction after the other pass; SQLite has but one writer at a time anyway."""

    type = Text()
    name = "locked"
    inherit_cache = True


@compiles(_Locked, "postgresql")
def _(element: _Locked, compiler: Any, **keywords: Any) -> str:
    return f"pg_advisory_xact_lock(hashtextextended({compiler.process(element.clauses, **keywords)}, 0))"


@compiles(_Locked, "sqlite")
def _(element: _Locked, compiler: Any, **keywords: Any) -> str:
    return "NULL"


def now() -> ColumnElement[Any]:
    """The only clock: the database's, or ``:clock`` where a test binds it."""
    return func.coalesce(bindparam("clock", None, type_=Moment), _DatabaseTime(), type_=Moment)


def woken(plane: ColumnElement[Any], news: News) -> ColumnElement[Any]:
    """Tells the listeners what the plane has news of; once a transaction, however often it is said."""
    return _Woken(literal(CHANNEL, Text), cast(plane, Text) + literal(f" {news}", Text)).label("woken")


def locked(name: ColumnElement[Any]) -> ColumnElement[Any]:
    """Waits until no other transaction has locked the name, and keeps it to the end of this one."""
    return _Locked(cast(name, Text)).label("locked")
