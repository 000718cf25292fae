"""HTTP load over raw sockets: a client library would be the bottleneck.

Arguments: the port, the token's file, how many connections, the rate a second (0: as fast as it is answered), and a
file with one request a line: ``POST /path``, or ``POST /path {"a body": "in JSON"}``. Prints JSON: the rate, and when
each request was due and answered, by `time.perf_counter`: a slow answer cannot hide those that had to wait behind it.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEAD_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) >= length and self._answer:
            self._received = b""
            self._answer.set_result(int(head.split()[1]))

    async def ask(self, request: bytes) -> None:
        """Send it and wait for its answer; RuntimeError for any status but a success."""
        assert self._transport
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        status = await self._answer
        if status not in (200, 201):
            raise RuntimeError(f"{status} for {request!r}")


async def load(port: int, token: str, connections: int, rate: float, lines: list[str]) -> dict[str, Any]:
    """Send every request once."""
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(connections)]
    requests = iter(enumerate([_request(line, token) for line in lines]))
    answered: list[tuple[float, float]] = []
    began_at = time.perf_counter()
    await asyncio.gather(*(_drive(connection, requests, began_at, rate, answered) for connection in opened))
    return {"rate": len(lines) / (time.perf_counter() - began_at), "answered": answered}


def _request(line: str, token: str) -> bytes:
    method, path, body = (*line.split(" ", 2), "")[:3]
    kind = "Content-Type: application/json\r\n" if body else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"{kind}Content-Length: {len(body.encode())}\r\n\r\n{body}"
    ).encode()


async def _drive(
    connection: Connection,
    requests: Iterator[tuple[int, bytes]],
    began_at: float,
    rate: float,
    answered: list[tuple[float, float]],
) -> None:
    for number, request in requests:
        due_at = began_at + number / rate if rate else time.perf_counter()
        await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
        await connection.ask(request)
        answered.append((due_at, time.perf_counter()))


def main(port: str, token_file: str, connections: str, rate: str, lines_file: str) -> None:
    """Load, and print what was measured."""
    token, lines = Path(token_file).read_text(), Path(lines_file).read_text().splitlines()
    print(json.dumps(asyncio.run(load(int(port), token, int(connections), float(rate), lines))))


if __name__ == "__main__":
    main(*sys.argv[1:])
