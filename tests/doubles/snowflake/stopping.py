"""The ways of stopping queries: what each does, whom it obeys, and what it answers."""

from uuid import UUID

from tests.doubles.snowflake.account import Account
from tests.doubles.snowflake.errors import (
    NOT_EXECUTING,
    canceled,
    insufficient_privileges,
    not_executing,
    not_found,
)
from tests.doubles.snowflake.faults import FaultBoard, Way
from tests.doubles.snowflake.privileges import may_end_session, may_stop
from tests.doubles.snowflake.queries import Query, QueryBook
from tests.doubles.snowflake.sessions import Session, SessionBook


class Stopper:
    """Each way begins to stop and answers at once: that a query has ended, only its status tells."""

    def __init__(self, account: Account, faults: FaultBoard, queries: QueryBook, sessions: SessionBook) -> None:
        self._account = account
        self._faults = faults
        self._queries = queries
        self._sessions = sessions

    def cancel_query(self, session: Session, query_id: str) -> str:
        """``SYSTEM$CANCEL_QUERY``: a row also for a query that has ended. For an id nobody knows: unverified."""
        if query_id in self._faults.now.unheard_of:
            raise not_found(query_id)
        query = self._queries.find(_checked(query_id))
        if query is None or query.ended.done():
            return NOT_EXECUTING
        self._demand(session, query)
        self._stop(query, Way.CANCEL_QUERY)
        return f"query [{query_id}] terminated."

    def abort(self, session: Session, query: Query | None) -> None:
        """An abort request. Raises SnowflakeError: 000605 when it does not run, 003001 without the privilege."""
        if query is None or query.ended.done():
            raise not_executing()
        self._demand(session, query)
        self._stop(query, Way.ABORT_REQUEST)

    def cancel_all_queries(self, asking: Query, session_id: str) -> str:
        """``SYSTEM$CANCEL_ALL_QUERIES``; its sentence is unverified."""
        queries = self._of_session(self._session(asking.session, session_id), but=asking)
        for query in queries:
            self._stop(query, Way.CANCEL_ALL_QUERIES)
        return f"{len(queries)} queries cancelled."

    def abort_session(self, asking: Query, session_id: str) -> str:
        """``SYSTEM$ABORT_SESSION``: stops the session's queries and ends it; its sentence is unverified."""
        target = self._session(asking.session, session_id)
        if Way.ABORT_SESSION not in self._faults.now.lying:
            for query in self._of_session(target, but=asking):
                self._stop(query, Way.ABORT_SESSION)
            self._sessions.end(target)
        return f"Session [{session_id}] terminated."

    def abort_all_queries(self, session: Session, warehouse: str) -> None:
        """``ALTER WAREHOUSE … ABORT ALL QUERIES``. Raises SnowflakeError without OPERATE or OWNERSHIP."""
        if not self._account.may(session.role, ("OPERATE", "OWNERSHIP"), "WAREHOUSE", warehouse):
            raise insufficient_privileges(f"warehouse '{warehouse}'")
        for query in self._queries.active():
            if query.warehouse == warehouse and query.executes:
                self._stop(query, Way.ABORT_ALL_QUERIES)

    def log_out(self, session: Session) -> None:
        """The client closed its session: what still runs in it may be stopped."""
        self._sessions.end(session)
        if self._faults.now.logout_stops_queries:
            for query in self._of_session(session):
                query.stop(canceled())

    def _demand(self, session: Session, query: Query) -> None:
        if not may_stop(self._account, self._faults.now, session, query):
            raise insufficient_privileges(f"query '{query.query_id}'")

    def _stop(self, query: Query, way: Way) -> None:
        if way not in self._faults.now.lying:
            query.stop(canceled(), after_seconds=self._faults.now.stop_seconds.get(way, 0.0))

    def _session(self, session: Session, session_id: str) -> Session:
        target = self._sessions.find(int(session_id)) if session_id.isdecimal() else None
        if target is None:
            raise not_found(f"of session {session_id}")
        if not may_end_session(self._account, self._faults.now, session, target.user):
            raise insufficient_privileges(f"session '{session_id}'")
        return target

    def _of_session(self, target: Session, but: Query | None = None) -> list[Query]:
        """The session's queries; not the very statement that asks, where a session stops itself."""
        return [query for query in self._queries.active() if query.session is target and query is not but]


def _checked(query_id: str) -> str:
    try:
        return str(UUID(query_id))
    except ValueError as error:
        raise not_found(query_id) from error  # unverified
