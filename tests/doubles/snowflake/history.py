"""What is told of queries: their statuses, the listing of running ones, and ``INFORMATION_SCHEMA.QUERY_HISTORY…``."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

from tests.doubles.snowflake.account import Account, meant
from tests.doubles.snowflake.errors import SnowflakeError
from tests.doubles.snowflake.faults import FaultBoard
from tests.doubles.snowflake.privileges import may_see
from tests.doubles.snowflake.queries import Query, QueryBook
from tests.doubles.snowflake.sessions import Session
from tests.doubles.snowflake.wire import Json, milliseconds

KEPT = timedelta(days=7)
DEFAULT_LIMIT = 100
LARGEST_LIMIT = 10_000
FUNCTIONS = frozenset(
    {
        "QUERY_HISTORY",
        "QUERY_HISTORY_BY_USER",
        "QUERY_HISTORY_BY_SESSION",
        "QUERY_HISTORY_BY_WAREHOUSE",
    }
)
#: The columns that this double keeps of Snowflake's many.
COLUMNS = {
    "QUERY_ID": "VARCHAR",
    "QUERY_TEXT": "VARCHAR",
    "QUERY_TYPE": "VARCHAR",
    "SESSION_ID": "BIGINT",
    "USER_NAME": "VARCHAR",
    "ROLE_NAME": "VARCHAR",
    "WAREHOUSE_NAME": "VARCHAR",
    "QUERY_TAG": "VARCHAR",
    "EXECUTION_STATUS": "VARCHAR",
    "ERROR_CODE": "VARCHAR",
    "ERROR_MESSAGE": "VARCHAR",
    "START_TIME": "TIMESTAMPTZ",
    "END_TIME": "TIMESTAMPTZ",
    "TOTAL_ELAPSED_TIME": "BIGINT",
    "ROWS_PRODUCED": "BIGINT",
    "CREDITS_USED_CLOUD_SERVICES": "DOUBLE",
}

Arguments = Mapping[str, Any]


class History:
    """Every answer is what the asking session may see of the truth, bent by the faults."""

    def __init__(self, account: Account, faults: FaultBoard, queries: QueryBook) -> None:
        self._account = account
        self._faults = faults
        self._queries = queries

    def status(self, session: Session, query_id: str) -> list[Json]:
        """One entry, or none: for what does not exist, and for what the session may not see (unverified)."""
        query = self._queries.find(query_id)
        if query is None or not self._sees(session, query):
            return []
        entry = self._entry(query)
        return [] if entry["status"] == "NO_DATA" else [entry]

    def listing(self, session: Session, subset: str, most: int, since: int) -> list[Json]:
        """``/monitoring/queries?subset=…&max=…&start=…``: active queries of this status, newest first."""
        visible = [query for query in reversed(self._queries.active()) if self._shows(session, query)]
        entries = [self._entry(query) for query in visible]
        wanted = [entry for entry in entries if entry["status"] == subset and entry["startTime"] >= since]
        return wanted[: self._limited(most)]

    def rows(self, session: Session, function: str, arguments: Arguments) -> list[dict[str, Any]]:
        """The rows of a table function: the limit applies before any WHERE; running ones count as the latest.

        With END_TIME_RANGE_END there are no running queries.
        """
        limit = self._limited(_limit(arguments))
        asked = [query for query in self._queries.everything() if _concerns(query, session, function, arguments)]
        sees = cache(partial(may_see, self._account, self._faults.now, session))
        seen = [query for query in asked if sees(query.user, query.warehouse) and self._is_listed(query)]
        ordered = sorted(seen, key=self._sort_key, reverse=True)
        return [self._row(query) for query in _in_range(ordered, arguments, self._known_end)][:limit]

    def _sees(self, session: Session, query: Query) -> bool:
        return may_see(self._account, self._faults.now, session, query.user, query.warehouse)

    def _shows(self, session: Session, query: Query) -> bool:
        return not self._is_hidden(query) and self._sees(session, query)

    def _is_hidden(self, query: Query) -> bool:
        hidden = self._faults.now.hidden
        return query.query_id in hidden or query.tag in hidden

    def _is_listed(self, query: Query) -> bool:
        return not self._is_hidden(query) and datetime.now(UTC) >= query.submitted_at + self._lag()

    def _limited(self, asked: int) -> int:
        limit = self._faults.now.listing_limit
        return asked if limit is None else min(asked, limit)

    def _entry(self, query: Query) -> Json:
        entry = {
            "id": query.query_id,
            "status": self._told_status(query),
            "errorCode": query.error and query.error.code,
            "errorMessage": query.error and query.error.message,
            "sessionId": query.session.session_id,
            "sqlText": query.sql,
            "queryTag": query.tag,
            "userName": query.user,
            "roleName": query.role,
            "warehouseName": query.warehouse,
            "startTime": milliseconds(query.submitted_at),
            "endTime": milliseconds(query.ended_at),
        }
        return {name: value for name, value in entry.items() if value is not None}  # the connector takes no null

    def _told_status(self, query: Query) -> str:
        told = self._faults.now.statuses
        lied = told.get(query.query_id) or told.get(query.tag) or told.get("*")
        return lied or query.status.value

    def _lag(self) -> timedelta:
        return timedelta(seconds=self._faults.now.history_lag_seconds)

    def _known_end(self, query: Query) -> datetime | None:
        ended_at = query.ended_at
        return ended_at if ended_at is not None and datetime.now(UTC) >= ended_at + self._lag() else None

    def _sort_key(self, query: Query) -> tuple[bool, datetime]:
        ended_at = self._known_end(query)
        return ended_at is None, ended_at or query.submitted_at

    def _row(self, query: Query) -> dict[str, Any]:
        ended_at = self._known_end(query)
        error = query.error if ended_at else None
        status = self._told_status(query) if ended_at or query.ended_at is None else "RUNNING"
        passed = (ended_at or datetime.now(UTC)) - query.submitted_at
        return {
            "QUERY_ID": query.query_id,
            "QUERY_TEXT": query.sql,
            "QUERY_TYPE": query.kind,
            "SESSION_ID": query.session.session_id,
            "USER_NAME": query.user,
            "ROLE_NAME": query.role,
            "WAREHOUSE_NAME": query.warehouse,
            "QUERY_TAG": query.tag,
            "EXECUTION_STATUS": status,
            "ERROR_CODE": error and error.code,
            "ERROR_MESSAGE": error and error.message,
            "START_TIME": query.submitted_at.isoformat(),
            "END_TIME": ended_at.isoformat() if ended_at else self._faults.now.open_end,
            "TOTAL_ELAPSED_TIME": int(passed.total_seconds() * 1000),
            "ROWS_PRODUCED": len(query.result.rows) if query.result and ended_at else None,
            "CREDITS_USED_CLOUD_SERVICES": 0.0,
        }


def _limit(arguments: Arguments) -> int:
    limit = int(arguments.get("RESULT_LIMIT", DEFAULT_LIMIT))
    if not 1 <= limit <= LARGEST_LIMIT:
        raise SnowflakeError("001045", f"Invalid value [{limit}] for RESULT_LIMIT, allowed: 1 to {LARGEST_LIMIT}")
    return limit


def _concerns(query: Query, session: Session, function: str, arguments: Arguments) -> bool:
    match function:
        case "QUERY_HISTORY_BY_USER":
            return query.user == (meant(str(arguments["USER_NAME"])) if "USER_NAME" in arguments else session.user)
        case "QUERY_HISTORY_BY_SESSION":
            return query.session.session_id == int(arguments.get("SESSION_ID", session.session_id))
        case "QUERY_HISTORY_BY_WAREHOUSE":
            return query.warehouse == str(arguments.get("WAREHOUSE_NAME", session.warehouse)).upper()
        case _:
            return True


def _in_range(
    queries: Iterable[Query], arguments: Arguments, known_end: Callable[[Query], datetime | None]
) -> list[Query]:
    start = _moment(arguments.get("END_TIME_RANGE_START")) or datetime.now(UTC) - KEPT
    end = _moment(arguments.get("END_TIME_RANGE_END"))
    if start < datetime.now(UTC) - KEPT - timedelta(minutes=1):
        raise SnowflakeError("000607", "Cannot retrieve data from more than 7 days ago.", "22023")
    found = []
    for query in queries:
        ended_at = known_end(query)
        if (ended_at is None and end is None) or (ended_at is not None and start <= ended_at <= (end or ended_at)):
            found.append(query)
    return found


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
