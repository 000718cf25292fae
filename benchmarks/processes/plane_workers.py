"""The workers of many planes over raw sockets: each holds a long poll for cancellations, and may beat, too.

Arguments: the port, and a file with one worker a line: its plane's id and its token. What to do comes line by line on
stdin; each line is answered by one on stdout:

* ``wait SECONDS``: within so many seconds every worker opens its long poll, and from then on another after each answer;
* ``beat``: every worker sends a heartbeat, and from now on one every ten seconds;
* ``request FILE TOKEN RATE``: the jobs in the file, one id a line, are asked to be cancelled, so many a second; the
  answer is how long it took, from before each request was sent until a worker had its assignment: milliseconds, JSON.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from uuid import uuid4

from control_plane.process_wire import LONGEST_WAIT_SECONDS

WAIT_SECONDS = LONGEST_WAIT_SECONDS
BEAT_SECONDS = 10.0
_HEAD_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
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
        if len(body) < length or not self._answer or self._answer.done():
            return
        self._received = b""
        if head.split()[1] == b"200":
            self._answer.set_result(body)
        else:
            self._answer.set_exception(RuntimeError(f"{head!r} {body!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(RuntimeError(f"the connection was lost: {exc}"))

    async def ask(self, request: bytes) -> bytes:
        """The body of its answer; RuntimeError for any status but a success."""
        assert self._transport
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


def post(path: str, token: str, body: object) -> bytes:
    sent = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    ).encode() + sent


class Worker:
    """One plane's worker."""

    def __init__(self, port: int, plane: str, token: str, claimed: dict[str, float]) -> None:
        self._port = port
        self._path = f"/data-planes/{plane}"
        self._token = token
        self._name = f"worker-{plane}"
        self._claimed = claimed

    async def poll(self, within_seconds: float) -> None:
        """Hold a long poll for ever; what is claimed is noted and kept."""
        await asyncio.sleep(random.uniform(0, within_seconds))  # noqa: S311
        connection = await self._connect()
        while True:
            wanted = {
                "worker": self._name, "limit": 100, "lease_seconds": 3600, "wait_seconds": WAIT_SECONDS,
                "lease": str(uuid4()),
            }  # fmt: skip
            answer = await connection.ask(post(f"{self._path}/cancellations/claim", self._token, wanted))
            moment = time.perf_counter()
            for assignment in json.loads(answer)["assignments"]:
                self._claimed[assignment["work"]["job_id"]] = moment

    async def beat(self) -> None:
        """Say that it lives, for ever."""
        await asyncio.sleep(random.uniform(0, BEAT_SECONDS))  # noqa: S311
        connection = await self._connect()
        presence = {
            "worker": self._name, "kind": "canceller", "version": "0.1.0", "engines": ["narrative"], "in_flight": 0,
        }  # fmt: skip
        while True:
            await connection.ask(post(f"{self._path}/heartbeat", self._token, presence))
            await asyncio.sleep(BEAT_SECONDS)

    async def _connect(self) -> Connection:
        return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port))[1]


async def request(port: int, token: str, jobs: list[str], rate: float, claimed: dict[str, float]) -> list[float]:
    """Ask for their cancellation; the milliseconds until each was claimed."""
    connection = (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]
    sent: dict[str, float] = {}
    began_at = time.perf_counter()
    for number, job_id in enumerate(jobs):
        await asyncio.sleep(max(0.0, began_at + number / rate - time.perf_counter()))
        sent[job_id] = time.perf_counter()
        await connection.ask(post(f"/jobs/{job_id}/request-cancellation", token, {"reason": "a benchmark"}))
    while not claimed.keys() >= sent.keys():
        if time.perf_counter() - began_at > len(jobs) / rate + 30:
            raise RuntimeError(f"{len(sent.keys() - claimed.keys())} cancellations were claimed by nobody")
        await asyncio.sleep(0.05)
    return [(claimed[job_id] - sent[job_id]) * 1000 for job_id in jobs]


async def work(port: int, planes: list[list[str]]) -> None:
    """Do what stdin says, until its end."""
    claimed: dict[str, float] = {}
    workers = [Worker(port, plane, token, claimed) for plane, token in planes]
    lines = asyncio.StreamReader()
    loop, tasks = asyncio.get_running_loop(), asyncio.TaskGroup()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with tasks:
        polling = []
        while words := (await lines.readline()).decode().split():
            answer = "done"
            match words:
                case ["wait", seconds]:
                    polling += [tasks.create_task(worker.poll(float(seconds))) for worker in workers]
                    await asyncio.sleep(float(seconds))
                case ["beat"]:
                    polling += [tasks.create_task(worker.beat()) for worker in workers]
                case ["request", file, token, rate]:
                    jobs = Path(file).read_text().split()  # noqa: ASYNC240  # small, and nothing is measured yet
                    answer = json.dumps(await request(port, token, jobs, float(rate), claimed))
            print(answer, flush=True)
        for task in polling:
            task.cancel()


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_text().splitlines()
    asyncio.run(work(int(sys.argv[1]), [line.split() for line in lines]))
