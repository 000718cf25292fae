"""The line to a Spark Connect server: every call bounded in time, every error translated.

Spark's generated stubs suffice, from 4.2 on, which knows GetStatus. Its ``SparkSession`` is not used: held by a
canceller, it hung at exit for ten minutes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
from grpc import aio
from pyspark.sql.connect.proto import base_pb2 as spark
from pyspark.sql.connect.proto import base_pb2_grpc, commands_pb2, relations_pb2

from adapters.narrative.spark_connect_errors import SESSION_CLOSED, LineError
from adapters.narrative.spark_connect_names import Identity, Server, Session
from adapters.narrative.spark_connect_translation import translated
from control_plane.jobs import Waiting

CLIENT = "countermand"
OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),  # a server that restarts is found again soon
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 128 * 1024 * 1024),  # as Spark's own client
)


class Batch(NamedTuple):
    """What came of a run's stream: a place to go on from, rows in Arrow's stream format, or the word that it is all."""

    response_id: str
    arrow: bytes = b""
    complete: bool = False


def reading(query: str) -> spark.Plan:
    """The plan whose rows are those of the query."""
    return spark.Plan(root=_relation(query))


def writing(query: str, path: str, kind: str) -> spark.Plan:
    """The plan that writes the query's rows to *path*: one operation, which overwrites nothing."""
    write = commands_pb2.WriteOperation(
        input=_relation(query),
        source=kind,
        path=path,
        mode=commands_pb2.WriteOperation.SAVE_MODE_ERROR_IF_EXISTS,
    )
    return spark.Plan(command=commands_pb2.Command(write_operation=write))


def _relation(query: str) -> relations_pb2.Relation:
    return relations_pb2.Relation(common=relations_pb2.RelationCommon(plan_id=0), sql=relations_pb2.SQL(query=query))


class Line:
    """Speaks to one server as *user*. Every call raises LineError, within *timeout_seconds*."""

    def __init__(self, server: Server, *, user: str, timeout_seconds: float) -> None:
        self.user = user
        self.server = server
        self._timeout_seconds = timeout_seconds
        self._own = Session(user, str(uuid4()))
        self._metadata = [("authorization", f"Bearer {server.token}")] if server.token else []
        self._channel: aio.Channel | None = None
        self._stub: Any = None

    @property
    def own(self) -> Session:
        """This process's own session; it is there once the server has named itself."""
        return self._own

    async def identity(self) -> Identity:
        """Which start of the server answers now, and whom it is asked as. Asked anew each time."""
        try:
            return await self._identity()
        except LineError as error:
            if error.condition != SESSION_CLOSED:
                raise
        self._own = Session(self.user, str(uuid4()))  # the last one had not been used for an hour
        return await self._identity()

    async def _identity(self) -> Identity:
        asked = spark.ConfigRequest.Operation(get=spark.ConfigRequest.Get(keys=["spark.app.id"]))
        answer = await self._config(self._own, asked)
        return Identity(answer.pairs[0].value, self.user)

    async def settings(self, names: Sequence[str]) -> dict[str, str]:
        """What the server has these of its settings at; those that it does not know are left out."""
        asked = spark.ConfigRequest.Operation(get_option=spark.ConfigRequest.GetOption(keys=names))
        answer = await self._config(self._own, asked)
        return {pair.key: pair.value for pair in answer.pairs if pair.HasField("value")}

    async def still_in(self, incarnation: str) -> None:
        """Raise LineError where the server was started anew since it named itself so."""
        here = (await self.identity()).incarnation
        if here != incarnation:
            raise LineError(Waiting.PLANE_SILENT, f"{here} answers where {incarnation} did a moment ago")

    async def touch(self, session: Session, settings: Mapping[str, str] = {}) -> None:
        """See that the session is there, with these settings: what the server has never seen cannot be closed."""
        pairs = [spark.KeyValue(key=key, value=value) for key, value in settings.items()]
        wanted = (
            spark.ConfigRequest.Operation(set=spark.ConfigRequest.Set(pairs=pairs))
            if pairs
            else spark.ConfigRequest.Operation(get=spark.ConfigRequest.Get(keys=["spark.app.id"]))
        )
        await self._config(session, wanted)

    async def states(self, session: Session, operation_ids: Sequence[str] = ()) -> dict[str, str]:
        """The state of these operations, or of all that the session has; Spark's own words.

        Raises LineError with the condition where the session is closed, or was never seen; it is not made by asking.
        """
        request = spark.GetStatusRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
            operation_status=spark.GetStatusRequest.OperationStatusRequest(operation_ids=operation_ids),
        )
        answer = await self._ask("GetStatus", request)
        name = spark.GetStatusResponse.OperationStatus.OperationState.Name
        return {
            status.operation_id: name(status.state).removeprefix("OPERATION_STATE_")
            for status in answer.operation_statuses
        }

    async def interrupt(
        self, session: Session, *, tag: str | None = None, operation_id: str | None = None
    ) -> list[str]:
        """The operations that the server says it has interrupted just now; none says nothing of any of them.

        By tag, by operation id, or every one of the session. It goes on when whoever asked for it is cancelled.
        """
        kinds = spark.InterruptRequest.InterruptType
        request = spark.InterruptRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
            interrupt_type=kinds.INTERRUPT_TYPE_ALL,
        )
        if tag is not None:
            request.interrupt_type, request.operation_tag = kinds.INTERRUPT_TYPE_TAG, tag
        elif operation_id is not None:
            request.interrupt_type, request.operation_id = kinds.INTERRUPT_TYPE_OPERATION_ID, operation_id
        return list((await self._tell("Interrupt", request)).interrupted_ids)

    async def release(self, session: Session, operation_id: str) -> None:
        """Let go of an operation's results. One that still runs is interrupted by that."""
        request = spark.ReleaseExecuteRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
            operation_id=operation_id,
            release_all=spark.ReleaseExecuteRequest.ReleaseAll(),
        )
        await self._tell("ReleaseExecute", request)

    async def release_session(self, session: Session) -> None:
        """End the session for good, with all that runs in it: nothing is started in it any more."""
        request = spark.ReleaseSessionRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
        )
        await self._tell("ReleaseSession", request)

    async def execute(self, session: Session, operation_id: str, plan: spark.Plan, *, tag: str) -> AsyncIterator[Batch]:
        """Start the operation, and stream what comes of it; it goes on when nobody listens any more.

        The stream ends without its last word when the server has had enough of it: :meth:`reattach`.
        """
        reattachable = spark.ExecutePlanRequest.RequestOption(reattach_options=spark.ReattachOptions(reattachable=True))
        request = spark.ExecutePlanRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
            operation_id=operation_id,
            plan=plan,
            tags=[tag],
            request_options=[reattachable],
        )
        async for batch in self._stream("ExecutePlan", request):
            yield batch

    async def reattach(self, session: Session, operation_id: str, after: str | None) -> AsyncIterator[Batch]:
        """Stream what comes of an operation that goes on, after the response of this id."""
        request = spark.ReattachExecuteRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
            operation_id=operation_id,
            last_response_id=after,
        )
        async for batch in self._stream("ReattachExecute", request):
            yield batch

    async def aclose(self) -> None:
        """Let go of the connection, and of this line's own session as far as the server lets us."""
        if self._channel is not None:
            with contextlib.suppress(LineError):  # it ends by itself, an hour after it was last used
                await self.release_session(self._own)
            await self._channel.close()
            self._channel = self._stub = None

    # --- inside

    async def _config(self, session: Session, operation: spark.ConfigRequest.Operation) -> spark.ConfigResponse:
        request = spark.ConfigRequest(
            session_id=session.session_id,
            user_context=spark.UserContext(user_id=session.user),
            client_type=CLIENT,
            operation=operation,
        )
        answer: spark.ConfigResponse = await self._ask("Config", request)
        return answer

    async def _tell(self, call: str, request: Any) -> Any:
        """Ask for what changes something: half-way through, nobody would know whether it did."""
        return await asyncio.shield(asyncio.ensure_future(self._ask(call, request)))

    async def _ask(self, call: str, request: Any) -> Any:
        try:
            return await getattr(self._connected(), call)(
                request, timeout=self._timeout_seconds, metadata=self._metadata
            )
        except aio.AioRpcError as error:
            raise translated(error, address=self.server.address, user=self.user) from error

    async def _stream(self, call: str, request: Any) -> AsyncIterator[Batch]:
        stream = getattr(self._connected(), call)(request, metadata=self._metadata)
        try:
            async for response in stream:
                yield Batch(response.response_id, response.arrow_batch.data, response.HasField("result_complete"))
        except aio.AioRpcError as error:
            raise translated(error, address=self.server.address, user=self.user) from error
        finally:
            stream.cancel()

    def _connected(self) -> Any:
        if self._channel is None:
            self._channel = self._open()
            self._stub = base_pb2_grpc.SparkConnectServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self._stub

    def _open(self) -> aio.Channel:
        if not self.server.tls:
            return aio.insecure_channel(self.server.address, options=OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.server.authorities)
        return aio.secure_channel(self.server.address, credentials, options=OPTIONS)
