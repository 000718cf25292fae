"""A Connect server and its web UI that tell what a test has them tell, to whoever speaks as Spark's clients do.

A statement is a job of the UI's list, and has ended as soon as it is begun.
"""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grpc import aio
from pyspark.sql.connect.proto import base_pb2 as spark
from pyspark.sql.connect.proto import base_pb2_grpc

APPLICATION = "local-1764367000000"
ENDED_AT = "2026-11-28T22:14:52.811GMT"


def job(number: int, *operation: str, stages: tuple[int, ...] = (), status: str = "SUCCEEDED") -> dict[str, Any]:
    """As the UI has it; *operation*: its session and itself."""
    tags = ["SparkConnect_OperationTag_User_u_Session_{}_Operation_{}".format(*operation)] if operation else []
    ended = {} if status == "RUNNING" else {"completionTime": ENDED_AT}
    return {"jobId": number, "stageIds": list(stages), "jobTags": tags, "status": status, **ended}


def thread(name: str, call: str, number: int = 1) -> dict[str, Any]:
    """Of a dump: one that is in this call."""
    return {"threadId": number, "threadName": name, "stackTrace": {"elems": [call]}}


@dataclass
class TellingServer(base_pb2_grpc.SparkConnectServiceServicer):
    """What it tells; *asked* is what the UI was asked for, and *begun* how many statements there were."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    threads: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  #: by executor; one without is not active
    dumps: list[list[dict[str, Any]]] = field(default_factory=list)  #: of the driver's, before *threads* has the word
    late: list[dict[str, Any]] = field(default_factory=list)  #: shown from the first statement after a dump of threads
    passed: int = 0  #: jobs that come before the next statement's, and are forgotten by then
    ends: set[int] = field(default_factory=set)  #: jobs that end with the next statement
    asked: list[str] = field(default_factory=list)
    begun: int = 0

    # --- its web UI

    def answer(self, path: str) -> Any:
        """The document; None where there is none."""
        what = path.removeprefix(f"/api/v1/applications/{APPLICATION}/")
        self.asked.append(what)
        if what == "executors":
            return [{"id": name, "isActive": bool(self.threads[name])} for name in self.threads]
        if what.startswith("executors/"):
            name = what.split("/")[1]
            return (self.dumps.pop(0) if name == "driver" and self.dumps else self.threads.get(name)) or None
        return {"connect/operations": self.operations, "jobs": self.jobs, "stages": self.stages}[what]

    # --- its service, with the names that Spark gives its calls

    async def Config(self, request: Any, _: Any) -> Any:  # noqa: N802  Spark's name
        asked = request.operation.get.keys
        return spark.ConfigResponse(pairs=[spark.KeyValue(key=key, value=APPLICATION) for key in asked])

    async def ExecutePlan(self, request: Any, _: Any) -> AsyncIterator[Any]:  # noqa: N802  Spark's name
        self.begun += 1
        if "executors/0/threads" in self.asked:
            self.jobs = [*self.jobs, *self.late]
        number = max((one["jobId"] for one in self.jobs), default=-1) + 1 + self.passed
        self.jobs = [job(one["jobId"]) if one["jobId"] in self.ends else one for one in self.jobs]
        self.jobs = [*self.jobs, job(number, request.session_id, request.operation_id)]
        yield spark.ExecutePlanResponse(result_complete=spark.ExecutePlanResponse.ResultComplete())

    async def ReleaseExecute(self, *_: Any) -> Any:  # noqa: N802  Spark's name
        return spark.ReleaseExecuteResponse()

    async def ReleaseSession(self, *_: Any) -> Any:  # noqa: N802  Spark's name
        return spark.ReleaseSessionResponse()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[tuple[str, str]]:
        """The server's address, and its web UI's URL."""
        server = aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        base_pb2_grpc.add_SparkConnectServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        await server.start()
        try:
            with self._showing() as url:
                yield f"127.0.0.1:{port}", url
        finally:
            await server.stop(None)

    @contextmanager
    def _showing(self) -> Iterator[str]:
        telling = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document = telling.answer(self.path)
                body = json.dumps(document).encode()
                self.send_response(404 if document is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()
            server.server_close()
