"""Answers that do not arrive although their cause took effect: the connection closes before them, or within them."""

import asyncio
from weakref import WeakValueDictionary

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_connections: WeakValueDictionary[tuple[str, int], "CloseableProtocol"] = WeakValueDictionary()


class CloseableProtocol(HttpToolsProtocol):
    """Uvicorn's connection, which an answer can close: ASGI itself has no word for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has connected."""
        super().connection_made(transport)
        _connections[transport.get_extra_info("peername")[:2]] = self


class LostAnswer(Response):
    """Not a byte of an answer: the connector asks again with the same ``requestId``."""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        client = scope["client"]
        _connections[client[0], client[1]].transport.abort()
        await receive()  # uvicorn would answer 500 before it has heard of the end


class CutAnswer(Response):
    """Promises a body and ends without it, whereupon uvicorn closes: the connector does not ask again."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
