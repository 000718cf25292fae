"""Queries: what was submitted, by whom, how it stands, and how it is stopped."""

import math
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from tests.doubles.snowflake.errors import SnowflakeError, canceled, timed_out
from tests.doubles.snowflake.sessions import Session

LONGEST_STATEMENT_SECONDS = 172_800.0


class Status(StrEnum):
    """What ``/monitoring/queries/<id>`` calls them."""

    RUNNING = "RUNNING"
    QUEUED = "QUEUED"
    BLOCKED = "BLOCKED"
    RESUMING_WAREHOUSE = "RESUMING_WAREHOUSE"
    ABORTING = "ABORTING"
    SUCCESS = "SUCCESS"
    FAILED_WITH_ERROR = "FAILED_WITH_ERROR"
    FAILED_WITH_INCIDENT = "FAILED_WITH_INCIDENT"


class Column(NamedTuple):
    """One column of a result, with Snowflake's word for its type."""

    name: str
    type: str
    scale: int | None = None


class Table(NamedTuple):
    """A result."""

    columns: list[Column]
    rows: list[tuple[Any, ...]]


class Submission(NamedTuple):
    """A statement as it arrived."""

    request_id: str
    sql: str
    parameters: dict[str, str]  #: for this statement alone; they outrank the session's
    bindings: dict[str, Any]


class Query:
    """One statement's execution. Its role and warehouse are those that its session had when it was submitted."""

    def __init__(self, session: Session, submission: Submission) -> None:
        self.query_id = new_query_id()
        self.request_id = submission.request_id
        self.session = session
        self.user = session.user
        self.role = session.role
        self.warehouse = session.warehouse
        self.sql = submission.sql
        self.bindings = submission.bindings
        self.parameters = {**session.parameters, **submission.parameters}
        self.submitted_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self.ended: Future[None] = Future()
        self.error: SnowflakeError | None = None
        self.result: Table | None = None
        self.kind = "UNKNOWN"
        self.stopping = threading.Event()  #: set when it has to end *now*
        self.nudged = threading.Event()  #: set when what it waits for may have come, or it has to end
        self._status = Status.QUEUED
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None  #: there while it really computes
        self._reason: SnowflakeError | None = None  #: what it will end with, once somebody wants to stop it
        self._stop_at: float | None = None
        self._queued_at = time.monotonic()
        self._queued_until = self._time_out("STATEMENT_QUEUED_TIMEOUT_IN_SECONDS", math.inf)
        self._until = self._time_out("STATEMENT_TIMEOUT_IN_SECONDS", LONGEST_STATEMENT_SECONDS)
        self._running_at: float | None = None

    @property
    def tag(self) -> str:
        return self.parameters.get("QUERY_TAG", "")

    @property
    def status(self) -> Status:
        """Its true status."""
        if self._reason is not None and not self.ended.done():
            return Status.ABORTING
        return self._status

    @property
    def executes(self) -> bool:
        """Whether it really burns CPU."""
        return self._interrupt is not None

    # --- its own thread

    def check(self, status: str) -> None:
        """Wait on with this status. Raises SnowflakeError when it is to stop instead."""
        self._status = Status(status)
        if self._status is Status.RUNNING and self._running_at is None:
            self._running_at = time.monotonic()
        if self.stopping.is_set():
            raise self._reason or canceled()

    def begin(self, interrupt: Callable[[], None]) -> None:
        """It is about to compute, until it is interrupted. Raises SnowflakeError when it is to stop instead."""
        with self._lock:
            self.check(Status.RUNNING)
            self._interrupt = interrupt

    def leave(self) -> None:
        """It has stopped computing."""
        with self._lock:
            self._interrupt = None

    def stopped_with(self) -> SnowflakeError:
        """What it ends with when its execution was interrupted."""
        return self._reason or canceled()

    def succeed(self, result: Table) -> None:
        self.result = result
        self._end(Status.SUCCESS)

    def fail(self, error: SnowflakeError, status: Status = Status.FAILED_WITH_ERROR) -> None:
        self.error = error
        self._end(status)

    def _end(self, status: Status) -> None:
        self._status = status
        self.ended_at = datetime.now(UTC)
        self.ended.set_result(None)

    # --- whoever stops it

    def stop(self, reason: SnowflakeError, *, after_seconds: float = 0.0) -> None:
        """Stop it, unless it has ended; the first reason stands. Returns at once."""
        with self._lock:
            if self.ended.done():
                return
            at = time.monotonic() + after_seconds
            self._reason = self._reason or reason
            self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._stop_if_due()

    def enforce(self) -> None:
        """Do what is due by now: a delayed stop, and its time-outs."""
        now = time.monotonic()
        if self._running_at is None and now >= self._queued_until:
            self.stop(timed_out("queued", self._queued_until - self._queued_at))
        if now >= self._until:
            self.stop(timed_out("statement or warehouse", self._until - self._queued_at))
        self._stop_if_due()

    def _stop_if_due(self) -> None:
        with self._lock:
            if self._stop_at is None or time.monotonic() < self._stop_at or self.stopping.is_set():
                return
            self.stopping.set()
            self.nudged.set()
            if self._interrupt is not None:
                self._interrupt()

    def _time_out(self, parameter: str, default: float) -> float:
        """When it passes; Snowflake counts both from the submission, and takes 0 for the longest."""
        given = self.parameters.get(parameter, "")
        seconds = float(given) if given.isdecimal() else 0.0
        return self._queued_at + (seconds or default)


def new_query_id() -> str:
    """A UUID that begins with the time, as Snowflake's do."""
    return str(uuid.UUID(int=(0x01B << 116) | (int(time.time() * 1000) << 68) | secrets.randbits(68)))


class QueryBook:
    """Every query since the account began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, Query] = {}
        self._by_request: dict[tuple[str, str], Query] = {}
        self._active: dict[str, Query] = {}

    def enter(self, session: Session, submission: Submission) -> tuple[Query, bool]:
        """The query of this request, and whether it is new: a repeated ``requestId`` of a user is the same query."""
        with self._lock:
            known = self._by_request.get((session.user, submission.request_id))
            if known is not None:
                return known, False
            query = Query(session, submission)
            self._by_id[query.query_id] = query
            self._by_request[session.user, query.request_id] = query
            self._active[query.query_id] = query
        query.ended.add_done_callback(lambda _: self._active.pop(query.query_id))
        return query, True

    def find(self, query_id: str) -> Query | None:
        """The query of this id."""
        return self._by_id.get(query_id)

    def find_request(self, user: str, request_id: str) -> Query | None:
        """The query that the user submitted with this ``requestId``."""
        return self._by_request.get((user, request_id))

    def everything(self) -> list[Query]:
        """All queries, oldest first."""
        with self._lock:
            return list(self._by_id.values())

    def active(self) -> list[Query]:
        """The queries that have not ended."""
        return list(self._active.copy().values())
