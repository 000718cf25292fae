"""Snowflake's JSON: the envelopes, and results with every value as text."""

from datetime import UTC, date, datetime
from typing import Any

from tests.doubles.snowflake.account import User
from tests.doubles.snowflake.errors import RejectedError, SnowflakeError
from tests.doubles.snowflake.queries import Column, Query, Table
from tests.doubles.snowflake.sessions import MASTER_TOKEN_SECONDS, TOKEN_SECONDS, Session

ASYNCHRONOUS = "333334"
STILL_RUNNING = "333333"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STATEMENT_TYPES = {"SELECT": 0x1000, "INSERT": 0x3100, "UPDATE": 0x3200, "DELETE": 0x3300, "MERGE": 0x3400}
OTHER_STATEMENT = 0x6000

Json = dict[str, Any]


def success(data: Any = None) -> Json:
    """Any good answer."""
    return {"success": True, "code": None, "message": None, "data": data}


def failure(error: SnowflakeError, query_id: str | None = None) -> Json:
    """Any bad answer; its HTTP status is 200. Of a session there is no data: the connector takes any for a token."""
    about = {"errorCode": error.code, "sqlState": error.sql_state, "queryId": query_id}
    data = None if isinstance(error, RejectedError) else about
    return {"success": False, "code": error.code, "message": error.message, "data": data}


def signed_in(session: Session, user: User) -> Json:
    """The answer to a login."""
    return success(
        {
            "token": session.token,
            "masterToken": session.master_token,
            "validityInSeconds": TOKEN_SECONDS,
            "masterValidityInSeconds": MASTER_TOKEN_SECONDS,
            "displayUserName": user.name,
            "sessionId": session.session_id,
            "parameters": _parameters(session),
            "sessionInfo": {
                "databaseName": session.database,
                "schemaName": session.schema,
                "warehouseName": session.warehouse,
                "roleName": session.role,
            },
        }
    )


def renewed(session: Session) -> Json:
    """The answer to a renewal."""
    return success(
        {
            "sessionToken": session.token,
            "validityInSecondsST": TOKEN_SECONDS,
            "masterToken": session.master_token,
            "validityInSecondsMT": MASTER_TOKEN_SECONDS,
            "sessionId": session.session_id,
        }
    )


def in_progress(query: Query, code: str) -> Json:
    """The query was accepted and has no result yet."""
    return success(
        {
            "queryId": query.query_id,
            "getResultUrl": f"/queries/{query.query_id}/result",
            "queryAbortsAfterSecs": 300,
        }
    ) | {"code": code}


def ended(query: Query) -> Json:
    """The query's result, or what it ended with."""
    if query.result is None:
        assert query.error is not None
        return failure(query.error, query.query_id)
    return success(
        {
            "parameters": _parameters(query.session),
            "rowtype": [_row_type(column) for column in query.result.columns],
            "rowset": _row_set(query.result),
            "total": len(query.result.rows),
            "returned": len(query.result.rows),
            "queryId": query.query_id,
            "queryResultFormat": "json",
            "sqlState": None,
            "statementTypeId": STATEMENT_TYPES.get(query.kind, OTHER_STATEMENT),
            "finalRoleName": query.session.role,
            "finalWarehouseName": query.session.warehouse,
            "finalDatabaseName": query.session.database,
            "finalSchemaName": query.session.schema,
        }
    )


def statuses(entries: list[Json]) -> Json:
    """What ``/monitoring/queries`` answers; no entry at all is NO_DATA to the connector."""
    return success({"queries": entries})


def milliseconds(moment: datetime | None) -> int | None:
    """A moment as the listing shows it."""
    return None if moment is None else int(moment.timestamp() * 1000)


def _parameters(session: Session) -> list[Json]:
    parameters = {"TIMEZONE": "UTC", "CLIENT_SESSION_KEEP_ALIVE": "false", **session.parameters}
    return [{"name": name, "value": value} for name, value in parameters.items()]


def _row_type(column: Column) -> Json:
    is_text = column.type == "text"
    scale = 9 if column.type.startswith("timestamp") else column.scale
    return {
        "name": column.name,
        "type": column.type,
        "nullable": True,
        "length": 16_777_216 if is_text else None,
        "byteLength": 16_777_216 if is_text else None,
        "precision": 38 if column.type == "fixed" else None,
        "scale": scale,
    }


def _row_set(table: Table) -> list[list[str | None]]:
    return [[_text(value) for value in row] for row in table.rows]


def _text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case datetime():
            return _seconds(value if value.tzinfo else value.replace(tzinfo=UTC))
        case date():
            return str((value - EPOCH.date()).days)
        case _:
            return str(value)


def _seconds(moment: datetime) -> str:
    passed = moment - EPOCH
    return f"{passed.days * 86_400 + passed.seconds}.{passed.microseconds:06d}000"
