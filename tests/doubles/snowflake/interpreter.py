"""Performs statements: those about the session and the account here, everything else on DuckDB."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping

from sqlglot import exp

from tests.doubles.snowflake.account import Account
from tests.doubles.snowflake.administration import Administration, done, properties
from tests.doubles.snowflake.engine import Engine, Given, Services
from tests.doubles.snowflake.errors import SnowflakeError, does_not_exist, no_warehouse
from tests.doubles.snowflake.faults import FaultBoard, Reading
from tests.doubles.snowflake.functions import Functions
from tests.doubles.snowflake.history import COLUMNS, History
from tests.doubles.snowflake.locks import Locks
from tests.doubles.snowflake.queries import Column, Query, Table
from tests.doubles.snowflake.statements import (
    HistoryCall,
    changed_tables,
    columns_named,
    computes,
    for_duckdb,
    history_calls,
    is_constant,
    kind_of,
    parse,
    quoted_names,
    read_information_schema,
)
from tests.doubles.snowflake.warehouses import Warehouse

CHANGES = {
    "INSERT": "number of rows inserted",
    "UPDATE": "number of rows updated",
    "DELETE": "number of rows deleted",
    "MERGE": "number of rows updated",  # and inserted: DuckDB counts them together
}


class Interpreter:
    """Everything here happens in the query's own thread."""

    def __init__(
        self,
        account: Account,
        faults: FaultBoard,
        engine: Engine,
        history: History,
        functions: Functions,
        administration: Administration,
        locks: Locks,
    ) -> None:
        self.statements: Counter[str] = Counter()  #: by QUERY_TYPE, or by the system function that is called
        self.calls: Counter[str] = Counter()  #: of system functions
        self._account = account
        self._faults = faults
        self._engine = engine
        self._services = Services()
        self._locks = locks
        self._history = history
        self._functions = functions
        self._administration = administration
        name = r'"?([\w$]+)"?'
        rules: list[tuple[str, Callable[..., Table]]] = [
            (r"ALTER SESSION SET (.*)", self._set),
            (r"ALTER SESSION UNSET (.*)", self._unset),
            (rf"USE (ROLE|WAREHOUSE|DATABASE|SCHEMA) {name}", self._use),
            (rf"USE SCHEMA {name}\.{name}", self._use_both),
            (r"USE SECONDARY ROLES (?:ALL|NONE)", lambda _query: done()),
            (r"(?:BEGIN|START)(?: (?:WORK|TRANSACTION))?(?: NAME \w+)?", self._begin),
            (r"(COMMIT|ROLLBACK)(?: WORK)?", self._finish),
        ]
        self._rules = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), perform) for pattern, perform in rules]

    def perform(self, query: Query) -> Table:
        """The statement's result. Raises SnowflakeError, also when the query was stopped."""
        return self._about_session(query) or self._about_account(query) or self._computed(query)

    # --- the session

    def _about_session(self, query: Query) -> Table | None:
        text = " ".join(query.sql.split()).rstrip("; ")
        for pattern, perform in self._rules:
            if found := pattern.fullmatch(text):
                self._count(query, text.split()[0].upper())
                return perform(query, *found.groups())
        return None

    def _set(self, query: Query, given: str) -> Table:
        query.session.parameters |= properties(given)
        return done()

    def _unset(self, query: Query, names: str) -> Table:
        for name in names.upper().split(","):
            query.session.parameters.pop(name.strip(), None)
        return done()

    def _use(self, query: Query, kind: str, name: str) -> Table:
        session, name = query.session, name.upper()
        match kind.upper():
            case "ROLE":
                held = self._account.user(session.user).roles
                if not any(name in self._account.inherited(role) for role in held):
                    raise SnowflakeError("003013", f"Requested role '{name}' is not assigned to the executing user.")
                session.role = name
            case "WAREHOUSE":
                self._account.warehouse(name)
                if not self._account.may(session.role, ("USAGE", "OPERATE", "OWNERSHIP"), "WAREHOUSE", name):
                    raise does_not_exist("Warehouse", name)
                session.warehouse = name
            case "DATABASE":
                return self._use_both(query, name, "PUBLIC")
            case _:
                return self._use_both(query, session.database, name)
        return done()

    def _use_both(self, query: Query, database: str, schema: str) -> Table:
        database, schema = database.upper(), schema.upper()
        known = self._engine.execute(query, "SELECT upper(database_name), upper(schema_name) FROM duckdb_schemas()")
        if (database, schema) not in known.rows:
            raise does_not_exist("Schema", f"{database}.{schema}")
        query.session.database, query.session.schema = database, schema
        return done()

    def _begin(self, query: Query) -> Table:
        self._engine.begin(query.session)
        query.session.in_transaction = True
        return done()

    def _finish(self, query: Query, how: str) -> Table:
        try:
            self._engine.finish(query.session, how.upper())
        finally:
            query.session.in_transaction = False
            self._locks.release(query.session)
        return done()

    # --- the account

    def _about_account(self, query: Query) -> Table | None:
        answer = self._administration.perform(query.session, query.sql)
        if answer is not None:
            self._count(query, " ".join(query.sql.upper().split()[:2]))
        return answer

    # --- data

    def _computed(self, query: Query) -> Table:
        tree = parse(query.sql, query.bindings)
        called = self._functions.called(tree)
        self.calls.update(called)
        self._count(query, called[0] if called else kind_of(tree))
        query.kind = kind_of(tree)
        histories = history_calls(tree)
        if not self._needs_warehouse(tree, called, histories):
            return self._run(query, tree, histories)
        with self._warehouse(query).place(
            query, start=lambda: self._faults.pass_time_unless(query.stopping, "resume_seconds")
        ):
            return self._run(query, tree, histories)

    def _needs_warehouse(self, tree: exp.Expr, called: list[str], histories: list[HistoryCall]) -> bool:
        if histories:
            return Reading.HISTORY in self._faults.now.needs_warehouse
        if called and not computes(tree):
            return Reading.FUNCTIONS in self._faults.now.needs_warehouse
        return computes(tree)

    def _warehouse(self, query: Query) -> Warehouse:
        if query.warehouse is None:
            raise no_warehouse()
        return self._account.warehouse(query.warehouse)

    def _run(self, query: Query, tree: exp.Expr, histories: list[HistoryCall]) -> Table:
        query.check("RUNNING")
        quoted = quoted_names(tree)
        self._functions.evaluate(tree, query)
        if histories or is_constant(tree):
            return _named(self._read(query, tree, histories), quoted)
        read_information_schema(tree, query.session)
        return _named(_as_snowflake_tells(tree, self._change(query, tree)), quoted)

    def _change(self, query: Query, tree: exp.Expr) -> Table:
        owner = query.session if query.session.in_transaction else query
        self._locks.acquire(query, owner, changed_tables(tree, query.session))
        try:
            return self._engine.execute(query, for_duckdb(tree))
        finally:
            if owner is query:
                self._locks.release(query)

    def _read(self, query: Query, tree: exp.Expr, histories: list[HistoryCall]) -> Table:
        if histories:
            self._faults.pass_time_unless(query.stopping, "listing_seconds")
        named = columns_named(tree)
        columns = {name: kind for name, kind in COLUMNS.items() if named is None or name in named}
        tables = [
            self._history_table(query, f"history_{number}", call, columns) for number, call in enumerate(histories)
        ]
        return self._services.execute(for_duckdb(tree), tables)

    def _history_table(self, query: Query, table: str, call: HistoryCall, columns: Mapping[str, str]) -> Given:
        """Of these columns alone: to make the table of all of them is most of what a statement takes."""
        call.read_from(table)
        arguments = {name: self._services.evaluate(sql) for name, sql in call.arguments.items()}
        rows = self._history.rows(query.session, call.function, arguments)
        kept = [{name: row[name] for name in columns} for row in rows]
        return Given(table, json.dumps(kept), json.dumps([columns]))

    def _count(self, query: Query, kind: str) -> None:
        query.kind = kind
        self.statements[kind] += 1


def _as_snowflake_tells(tree: exp.Expr, result: Table) -> Table:
    """DuckDB counts what it changed; Snowflake names the count, and answers a sentence for what it defined."""
    if (change := CHANGES.get(kind_of(tree))) is not None:
        return Table([Column(change, "fixed", 0)], result.rows)
    if isinstance(tree, (exp.Create, exp.Drop, exp.Alter, exp.Comment)):
        return done()
    return result


def _named(result: Table, quoted: set[str]) -> Table:
    """Names are in capitals, but for those that were quoted."""
    names = [column.name if column.name in quoted else column.name.upper() for column in result.columns]
    return Table([column._replace(name=name) for column, name in zip(result.columns, names, strict=True)], result.rows)
