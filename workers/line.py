"""The way to a control plane elsewhere: HTTPS, reaching out only. One for a process; a bearer for each plane.

Every call of a plane's process may be repeated, so one whose connection was lost is: once here at once, for the server
may have closed it while it lay idle, and by whoever outlasts the outage.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
import msgspec

from control_plane.answers import lost, read
from control_plane.client import is_loopback, usable_proxies
from control_plane.errors import BadInput, ControlPlaneUnavailable, Forbidden, NotFound, Unauthenticated

Answer = TypeVar("Answer")

CALL_SECONDS = 10.0  #: for an answer, beside what the call itself wants to wait
CONNECT_SECONDS = 5.0
#: Less than any server or proxy lets a connection lie idle, by default.
IDLE_SECONDS = 30.0
#: How a token is answered that has ended, does not suffice, or is another plane's.
REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND}
#: What a server that had closed an idle connection makes of the next call on it.
CUT = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class Bearer:
    """A token, and how it is read anew: whoever renews the file need not start the process again."""

    def __init__(self, read_token: Callable[[], str]) -> None:
        self._read = read_token
        self._token = read_token()

    def __repr__(self) -> str:
        return "Bearer(…)"

    @property
    def header(self) -> dict[str, str]:
        """As it travels."""
        return {"Authorization": f"Bearer {self._token}"}

    def is_renewed(self, since: Mapping[str, str]) -> bool:
        """Whether it is another one now than the header *since* has, read anew. One that cannot be read stays."""
        with suppress(BadInput):
            self._token = self._read()
        return self.header != since


class Line:
    """HTTPS to one control plane. Proxies are taken from the environment, as everywhere.

    Over HTTP/1.1: a long poll that is given up closes its connection, so the control plane claims nothing for it any
    more. Over HTTP/2 httpcore 1.0.9 leaves the stream open (seen against hypercorn), and the poll would go on.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_SECONDS)
        with usable_proxies():
            self._http = httpx.AsyncClient(
                base_url=url,
                headers={"User-Agent": "countermand", "Content-Type": "application/json"},
                transport=transport,
                verify=tls,
                trust_env=not is_loopback(url),  # this machine is not asked by way of a proxy
                limits=limits,
            )

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def call(
        self, method: str, path: str, kind: type[Answer], *, bearer: Bearer, body: Any = None, wait_seconds: float = 0.0
    ) -> Answer:
        """What the control plane answers, within *wait_seconds* and a little; raises what it answers as problems.

        ControlPlaneUnavailable where there is no answer, or one that may be another later.
        """
        content = None if body is None else msgspec.json.encode(body)
        timeout = httpx.Timeout(wait_seconds + CALL_SECONDS, connect=CONNECT_SECONDS, pool=CALL_SECONDS)

        async def send(headers: Mapping[str, str]) -> httpx.Response:
            request = self._http.request(method, path, content=content, headers=headers, timeout=timeout)
            return await _whole_within(wait_seconds + CALL_SECONDS, request)

        try:
            response = await _twice_if_cut(partial(send, sent := bearer.header))
            if response.status_code in REFUSED and bearer.is_renewed(since=sent):
                response = await send(bearer.header)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise lost(error, self.url, repeatable=True) from error
        return read(response, kind, self.url, repeatable=True)


async def _whole_within(seconds: float, request: Awaitable[httpx.Response]) -> httpx.Response:
    """The response; httpx's own time-outs begin anew with each byte of an answer that only drips.

    httpx lets pass what TLS meets after its handshake: a client's certificate that has expired, garbled bytes.
    """
    try:
        async with asyncio.timeout(seconds + CONNECT_SECONDS):
            return await request
    except TimeoutError as error:
        raise httpx.ReadTimeout("the answer does not end") from error
    except ssl.SSLError as error:
        raise httpx.ReadError(str(error)) from error


async def _twice_if_cut(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    try:
        return await send()
    except CUT:
        return await send()


class PlaneLine:
    """The same for the processes of one plane, after the control plane has said who they are."""

    def __init__(self, line: Line, bearer: Bearer, data_plane_id: UUID) -> None:
        self._line = line
        self._bearer = bearer
        self._path = f"/data-planes/{data_plane_id}"

    async def ask(self, path: str, body: Any, kind: type[Answer], *, wait_seconds: float = 0.0) -> Answer:
        """What the plane's operation answers.

        Whoever was let in once, and is not any more, waits until somebody mends that: it is an outage like others, and
        told as one. So is whatever answers in the control plane's place.
        """
        try:
            return await self._line.call(
                "POST", self._path + path, kind, bearer=self._bearer, body=body, wait_seconds=wait_seconds
            )
        except (Unauthenticated, Forbidden, NotFound) as error:
            raise ControlPlaneUnavailable(f"the control plane refuses: {error.message}") from error
        except BadInput as error:
            if error.field != "url":
                raise
            raise ControlPlaneUnavailable(error.message) from error
