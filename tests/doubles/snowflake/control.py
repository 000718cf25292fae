"""What is no part of Snowflake's protocol: a test's hand on the account, and its view of the truth."""

import asyncio
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.doubles.snowflake.account import Account
from tests.doubles.snowflake.app import SnowflakeProtocol
from tests.doubles.snowflake.errors import canceled
from tests.doubles.snowflake.faults import FaultBoard
from tests.doubles.snowflake.interpreter import Interpreter
from tests.doubles.snowflake.queries import QueryBook
from tests.doubles.snowflake.sessions import Loss, SessionBook


class SpoiledSessions(Struct, forbid_unknown_fields=True):
    """Which sessions are to be lost, and how."""

    user: str
    loss: Loss


class IssuedToken(Struct, forbid_unknown_fields=True):
    """An OAuth token that an issuer gave to a user."""

    user: str
    token: str


class Control:
    """Routes below ``/_double``."""

    def __init__(
        self,
        account: Account,
        faults: FaultBoard,
        sessions: SessionBook,
        queries: QueryBook,
        interpreter: Interpreter,
        protocol: SnowflakeProtocol,
    ) -> None:
        self._account = account
        self._faults = faults
        self._sessions = sessions
        self._queries = queries
        self._interpreter = interpreter
        self._protocol = protocol

    def routes(self) -> list[Route]:
        """Every operation, by its path."""
        return [
            Route("/_double/faults", self.faults, methods=["GET", "POST", "DELETE"]),
            Route("/_double/calm", self.calm, methods=["POST"]),
            Route("/_double/state", self.state, methods=["GET"]),
            Route("/_double/sessions/lose", self.lose_sessions, methods=["POST"]),
            Route("/_double/oauth-tokens", self.issue_token, methods=["POST"]),
        ]

    async def faults(self, request: Request) -> Response:
        """POST sets the given switches and leaves the others, DELETE turns all off; both answer how they stand."""
        if request.method == "DELETE":
            self._faults.clear()
        if request.method == "POST":
            try:
                self._faults.switch(msgspec.json.decode(await request.body(), type=dict[str, Any]))
            except msgspec.DecodeError as error:
                return Response(str(error), 400)
        return _json(self._faults.now)

    async def calm(self, _request: Request) -> Response:
        """No faults any more, and nothing that runs: answered once every query has ended."""
        self._faults.clear()
        active = self._queries.active()
        for query in active:
            query.stop(canceled())
        await asyncio.gather(*(asyncio.wrap_future(query.ended) for query in active))
        return _json({"stopped": len(active)})

    async def state(self, _request: Request) -> Response:
        """The truth, whatever the faults make the protocol say."""
        return _json(
            {
                "active": [
                    {"id": query.query_id, "tag": query.tag, "user": query.user, "status": query.status}
                    for query in self._queries.active()
                ],
                "executing": [query.query_id for query in self._queries.active() if query.executes],
                "queries": len(self._queries.everything()),
                "statements": self._interpreter.statements,
                "calls": self._interpreter.calls,
                "requests": self._protocol.requests,
                "sessions": len(self._sessions),
                "warehouses": {
                    warehouse.name: {"state": warehouse.state, "resumes": warehouse.resumes}
                    for warehouse in self._account.warehouses.values()
                },
            }
        )

    async def lose_sessions(self, request: Request) -> Response:
        """Expire or forget every session of a user; answers how many."""
        try:
            asked = msgspec.json.decode(await request.body(), type=SpoiledSessions)
        except msgspec.DecodeError as error:
            return Response(str(error), 400)
        return _json({"sessions": self._sessions.lose(asked.user.upper(), asked.loss)})

    async def issue_token(self, request: Request) -> Response:
        """Let an OAuth token be good for a user from now on."""
        try:
            issued = msgspec.json.decode(await request.body(), type=IssuedToken)
        except msgspec.DecodeError as error:
            return Response(str(error), 400)
        user = self._account.signing_in(issued.user)
        if user is None:
            return Response(f"there is no user {issued.user}", 400)
        self._account.oauth_tokens[issued.token] = user.name
        return _json({})


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
