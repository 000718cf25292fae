"""The line to executors' run servers: one call, bounded in time, to the executor that it is meant for."""

import asyncio
import ssl
from typing import TypeVar

import httpx
import msgspec
from msgspec import Struct

from adapters.base import Trouble
from adapters.narrative import wire
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Waiting
from control_plane.work import Executor

Told = TypeVar("Told", bound=wire.Answer)


class SilentError(EngineUnavailable):
    """An executor gave no answer that proves anything; *trouble* says why, in one sentence."""

    def __init__(self, waiting: Waiting, detail: str) -> None:
        super().__init__(detail)
        self.trouble = Trouble(waiting, detail)


class Line:
    """Calls to run servers; none lasts longer than *timeout_seconds*, whatever the server does."""

    def __init__(self, timeout_seconds: float, token: str | None) -> None:
        self._timeout_seconds = timeout_seconds
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._tls = ssl.create_default_context()  # once: it takes tens of milliseconds
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def ask(self, executor: Executor, path: str, told: type[Told], asked: Struct | None = None) -> Told:
        """Post *asked*, or get without it. Raises SilentError when this very executor did not answer it."""
        if executor.address is None:
            raise SilentError(Waiting.PLANE_SILENT, f"{executor.executor_id} has no address on record")
        answer = _decoded(executor, told, await self._send(executor, executor.address, path, asked))
        if mistaken := _mistaken(executor, answer.identity):
            raise SilentError(Waiting.PLANE_SILENT, mistaken)
        return answer

    async def aclose(self) -> None:
        """Let go of connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def _send(self, executor: Executor, address: str, path: str, asked: Struct | None) -> httpx.Response:
        body = None if asked is None else msgspec.json.encode(asked)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._client(address).request("GET" if body is None else "POST", path, content=body)
        except TimeoutError as error:
            detail = f"{executor.executor_id} did not answer within {self._timeout_seconds:g} s"
            raise SilentError(Waiting.PLANE_SILENT, detail) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            detail = f"{executor.executor_id} cannot be reached at {address}: {str(error) or type(error).__name__}"
            raise SilentError(Waiting.PLANE_SILENT, detail) from error

    def _client(self, address: str) -> httpx.AsyncClient:
        if address not in self._clients:
            self._clients[address] = self._new_client(address)
        return self._clients[address]

    def _new_client(self, address: str) -> httpx.AsyncClient:
        """A connection for each call: a kept one would break silently whenever its executor restarts."""
        path = address.removeprefix("unix:")
        transport = httpx.AsyncHTTPTransport(
            verify=self._tls,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            uds=path if path != address else None,
        )
        base_url = "http://executor" if path != address else address
        return httpx.AsyncClient(transport=transport, base_url=base_url, headers=self._headers, timeout=None)  # noqa: S113  bounded as a whole, above


def _mistaken(executor: Executor, identity: wire.Identity) -> str | None:
    """Why this answer is not the executor's: only the start that the control plane has registered is believed."""
    if identity.executor_id != executor.executor_id:
        return f"{identity.executor_id} answers at {executor.address} in place of {executor.executor_id}"
    if executor.registered is not None and identity.incarnation != executor.registered:
        return (
            f"{executor.executor_id} answers as incarnation {identity.incarnation}, but {executor.registered} is "
            "registered"
        )
    return None


def _decoded(executor: Executor, told: type[Told], response: httpx.Response) -> Told:
    if response.status_code != httpx.codes.OK:
        raise _rejection(executor, response)
    try:
        return msgspec.json.decode(response.content, type=told)
    except msgspec.DecodeError as error:
        detail = f"{executor.executor_id} answered something else than its protocol: {error}"
        raise SilentError(Waiting.ADAPTER_ERROR, detail) from error


def _rejection(executor: Executor, response: httpx.Response) -> SilentError:
    try:
        detail = msgspec.json.decode(response.content, type=wire.Problem).detail
    except msgspec.DecodeError:
        detail = response.reason_phrase
    sentence = f"{executor.executor_id} answered {response.status_code}: {detail}"
    match response.status_code:
        case 401 | 403:
            return SilentError(Waiting.NOT_PERMITTED, sentence)
        case status if status < 500:
            return SilentError(Waiting.ADAPTER_ERROR, sentence)
    return SilentError(Waiting.PLANE_SILENT, sentence)
