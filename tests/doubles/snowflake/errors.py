"""What Snowflake answers instead of a result: a code, a sentence, and an SQLSTATE."""


class SnowflakeError(Exception):
    """One of Snowflake's errors; travels as ``{"success": false, "code", "message"}`` with HTTP status 200."""

    def __init__(self, code: str, message: str, sql_state: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.sql_state = sql_state


class RejectedError(SnowflakeError):
    """The login or the session is not valid (390xxx); no statement was looked at."""


NOT_EXECUTING = "Identified SQL statement is not currently executing."


def canceled() -> SnowflakeError:
    """What a cancelled query ends with."""
    return SnowflakeError("000604", "SQL execution canceled", "57014")


def timed_out(what: str, seconds: float) -> SnowflakeError:
    """What a query ends with whose *what* ("statement or warehouse", "queued") time-out has passed."""
    return SnowflakeError(
        "000604", f"Statement reached its {what} timeout of {seconds:g} second(s) and was canceled.", "57014"
    )


def not_executing() -> SnowflakeError:
    """The answer to an abort request for a query that has ended, or never was."""
    return SnowflakeError("000605", NOT_EXECUTING, "57014")


def insufficient_privileges(operation: str) -> SnowflakeError:
    """The role may not do this (code unverified for SYSTEM$ functions)."""
    return SnowflakeError(
        "003001", f"SQL access control error:\nInsufficient privileges to operate on {operation}", "42501"
    )


def no_warehouse() -> SnowflakeError:
    """The statement computes, and its session has no warehouse that could."""
    return SnowflakeError(
        "000606",
        "No active warehouse selected in the current session.  "
        "Select an active warehouse with the 'use warehouse' command.",
        "57P03",
    )


def does_not_exist(kind: str, name: str) -> SnowflakeError:
    """There is no such object, or the role may not know of it."""
    return SnowflakeError(
        "002003",
        f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.",
        "02000",
    )


def not_found(query_id: str) -> SnowflakeError:
    """No statement has this id, as far as the asking user may know."""
    return SnowflakeError("000709", f"Statement {query_id} not found", "02000")


def malformed(detail: str) -> SnowflakeError:
    """The statement cannot be read."""
    return SnowflakeError("001003", f"SQL compilation error:\n{detail}", "42000")


def failed(detail: str) -> SnowflakeError:
    """The statement failed while it ran."""
    return SnowflakeError("100038", detail, "22018")


def incident(detail: str) -> SnowflakeError:
    """Snowflake's own failure: the status is FAILED_WITH_INCIDENT."""
    return SnowflakeError("000603", f"SQL execution internal error: {detail}", "XX000")
