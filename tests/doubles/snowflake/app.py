"""The protocol's routes: what the connector asks for, and what it is answered."""

import asyncio
import gzip
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.doubles.snowflake import wire
from tests.doubles.snowflake.account import Account
from tests.doubles.snowflake.errors import SnowflakeError, not_found
from tests.doubles.snowflake.executor import Executor
from tests.doubles.snowflake.faults import FaultBoard, Part
from tests.doubles.snowflake.history import History
from tests.doubles.snowflake.login import Credentials, chosen_role, sign_in
from tests.doubles.snowflake.losses import CutAnswer, LostAnswer
from tests.doubles.snowflake.queries import Query, QueryBook, Submission
from tests.doubles.snowflake.sessions import Session, SessionBook
from tests.doubles.snowflake.stopping import Stopper
from tests.doubles.snowflake.wire import Json

Answer = Callable[[Request], Awaitable[Json]]


class SnowflakeProtocol:
    """Snowflake's HTTP protocol over one account. Every fault that concerns the wire strikes here."""

    def __init__(
        self,
        account: Account,
        faults: FaultBoard,
        sessions: SessionBook,
        queries: QueryBook,
        history: History,
        stopper: Stopper,
        executor: Executor,
    ) -> None:
        self.requests: Counter[Part] = Counter()  #: that arrived
        self._account = account
        self._faults = faults
        self._sessions = sessions
        self._queries = queries
        self._history = history
        self._stopper = stopper
        self._executor = executor

    def routes(self) -> list[Route]:
        """Every operation, by its path."""
        return [
            self._route("POST", "/session/v1/login-request", Part.LOGIN, self.log_in),
            self._route("POST", "/session/token-request", Part.SESSION, self.renew),
            self._route("POST", "/session/heartbeat", Part.SESSION, self.beat),
            self._route("POST", "/session", Part.SESSION, self.log_out),
            self._route("POST", "/queries/v1/query-request", Part.STATEMENT, self.submit),
            self._route("POST", "/queries/v1/abort-request", Part.ABORT, self.abort_request),
            self._route("GET", "/queries/{query_id}/result", Part.RESULT, self.result),
            self._route("POST", "/queries/{query_id}/abort-request", Part.ABORT, self.abort_query),
            self._route("GET", "/monitoring/queries", Part.LISTING, self.list_queries),
            # The connector writes /monitoring/queries//<id>.
            self._route("GET", "/monitoring/queries/{query_id:path}", Part.STATUS, self.status),
            Route("/telemetry/send", _telemetry, methods=["POST"]),
        ]

    async def log_in(self, request: Request) -> Json:
        """A session for good credentials; a warehouse that the role may not use is left out, as nothing is said."""
        body = await _body(request)
        credentials = msgspec.convert(body.get("data", {}), Credentials)
        user = sign_in(self._account, credentials)
        role = chosen_role(self._account, user, request.query_params.get("roleName", ""))
        session = self._sessions.open(user.name, role, _texts(credentials.session_parameters))
        session.account = self._faults.now.account
        session.database = request.query_params.get("databaseName", "").upper() or session.database
        session.schema = request.query_params.get("schemaName", "").upper() or session.schema
        warehouse = request.query_params.get("warehouse", "").upper()
        if self._account.may(role, ("USAGE", "OPERATE", "OWNERSHIP"), "WAREHOUSE", warehouse):
            session.warehouse = warehouse
        return wire.signed_in(session, user)

    async def renew(self, request: Request) -> Json:
        """A new token for a master token."""
        return wire.renewed(self._sessions.renewed(_token(request)))

    async def beat(self, request: Request) -> Json:
        """Whether the session is good."""
        self._session(request)
        return wire.success()

    async def log_out(self, request: Request) -> Json:
        """End the session."""
        self._stopper.log_out(self._session(request))
        return wire.success()

    async def submit(self, request: Request) -> Json:
        """Run a statement. A ``requestId`` that was seen before is answered for the query that it started."""
        body = await _body(request)
        self._session(request)
        await asyncio.sleep(self._faults.now.late_seconds)
        query, is_new = self._queries.enter(self._session(request), _submission(request, body))
        if is_new:
            self._executor.start(query)
        if body.get("asyncExec"):
            return wire.in_progress(query, wire.ASYNCHRONOUS)
        return await self._patiently(query)

    async def result(self, request: Request) -> Json:
        """The result of a query, for the user who ran it."""
        session = self._session(request)
        query = self._queries.find(request.path_params["query_id"])
        if query is None or query.user != session.user:
            raise not_found(request.path_params["query_id"])
        return await self._patiently(query)

    async def abort_query(self, request: Request) -> Json:
        """Abort by query id; needs the privileges that SYSTEM$CANCEL_QUERY needs."""
        session = self._session(request)
        self._stopper.abort(session, self._queries.find(request.path_params["query_id"]))
        return wire.success()

    async def abort_request(self, request: Request) -> Json:
        """Abort one's own statement by the ``requestId`` that it was sent with."""
        session = self._session(request)
        body = await _body(request)
        self._stopper.abort(session, self._queries.find_request(session.user, str(body.get("requestId"))))
        return wire.success()

    async def status(self, request: Request) -> Json:
        """The status of one query."""
        session = self._session(request)
        return wire.statuses(self._history.status(session, request.path_params["query_id"].lstrip("/")))

    async def list_queries(self, request: Request) -> Json:
        """Active queries of one status."""
        session = self._session(request)
        await self._faults.pass_time("listing_seconds")
        asked = request.query_params
        subset, most, start = asked.get("subset", "RUNNING"), asked.get("max", "100"), asked.get("start", "0")
        return wire.statuses(self._history.listing(session, subset, int(most), int(start)))

    async def _patiently(self, query: Query) -> Json:
        """Its result, or after a while the advice to ask again."""
        await asyncio.wait([asyncio.wrap_future(query.ended)], timeout=self._faults.now.sync_seconds)
        return wire.ended(query) if query.ended.done() else wire.in_progress(query, wire.STILL_RUNNING)

    def _session(self, request: Request) -> Session:
        return self._sessions.signed_in(_token(request))

    def _route(self, method: str, path: str, part: Part, answer: Answer) -> Route:
        async def answered(request: Request) -> Response:
            self.requests[part] += 1
            await request.body()  # kept; asking for the end of the connection below would swallow it
            if not await self._faults.pass_gate(part):
                return Response("Service Unavailable", 503)
            if await request.is_disconnected():
                return Response(status_code=499)  # read by nobody: its sender gave up while this part hung
            response = _json(await _told(answer, request))
            if self._faults.loses_answer(part):
                return LostAnswer()
            return CutAnswer() if self._faults.cuts_answer(part) else response

        return Route(path, answered, methods=[method])


async def _told(answer: Answer, request: Request) -> Json:
    try:
        return await answer(request)
    except SnowflakeError as error:
        return wire.failure(error)


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _telemetry(_request: Request) -> Response:
    return _json(wire.success())


async def _body(request: Request) -> Json:
    body = await request.body()
    if request.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    found: Json = msgspec.json.decode(body or b"{}")
    return found


def _token(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix('Snowflake Token="').removesuffix('"')


def _submission(request: Request, body: Json) -> Submission:
    parameters = _texts(body.get("parameters") or {})
    request_id = request.query_params.get("requestId") or str(uuid4())
    return Submission(request_id, body.get("sqlText", ""), parameters, body.get("bindings") or {})


def _texts(parameters: dict[str, Any]) -> dict[str, str]:
    return {name.upper(): str(value) for name, value in parameters.items() if value is not None}
