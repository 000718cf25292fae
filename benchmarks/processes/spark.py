"""Spark's servers, and a bare client of Connect: a process of the environment that has all of Spark, ``.venv``.

Arguments: ``connect`` or ``standalone``, and the folder for it. Once it is up, a line on stdout tells where the
catalogue's jar is; it is stopped once stdin ends. A client of Connect does what it is told line by line on stdin, and
answers each by a line on stdout:

* ``run TAG SQL``: submit the query, in a session of its own;
* ``interrupt TAG``: interrupt it by its tag; the answer is what the server said to that.

The client has the stubs that Spark generates, and nothing of ours.
"""

import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import grpc
from pyspark.sql.connect.proto import base_pb2 as spark
from pyspark.sql.connect.proto import base_pb2_grpc, relations_pb2

from tests.spark import ConnectServer, Standalone, catalog_jar

USER = spark.UserContext(user_id="bare")


class Client:
    """A client of the server."""

    def __init__(self, url: str) -> None:
        self._stub: Any = base_pb2_grpc.SparkConnectServiceStub(grpc.insecure_channel(url.removeprefix("sc://")))  # type: ignore[no-untyped-call]
        self._sessions: dict[str, str] = {}

    def run(self, tag: str, sql: str) -> str:
        """Submit the query; a thread waits for its rows."""
        self._sessions[tag] = str(uuid4())
        query = relations_pb2.Relation(common=relations_pb2.RelationCommon(plan_id=0), sql=relations_pb2.SQL(query=sql))
        request = spark.ExecutePlanRequest(
            session_id=self._sessions[tag],
            user_context=USER,
            operation_id=str(uuid4()),
            plan=spark.Plan(root=query),
            tags=[tag],
        )
        Thread(target=_read, args=[self._stub.ExecutePlan(request)], daemon=True).start()
        return "submitted"

    def interrupt(self, tag: str) -> str:
        """Interrupt it; what the server says it has interrupted."""
        request = spark.InterruptRequest(
            session_id=self._sessions[tag],
            user_context=USER,
            interrupt_type=spark.InterruptRequest.InterruptType.INTERRUPT_TYPE_TAG,
            operation_tag=tag,
        )
        return " ".join(self._stub.Interrupt(request).interrupted_ids)


def _read(rows: Any) -> None:
    with suppress(grpc.RpcError):
        for _ in rows:
            pass


def serve_connect(folder: Path) -> None:
    """Do what stdin says until it ends."""
    with ConnectServer.start(folder) as server:
        client = Client(server.url)
        print(catalog_jar(folder), flush=True)
        for line in sys.stdin:
            name, *arguments = line.rstrip("\n").split(" ", 2)
            print(getattr(client, name)(*arguments), flush=True)


def serve_standalone(folder: Path) -> None:
    """Wait until stdin ends."""
    with Standalone.start(folder):
        print(catalog_jar(folder), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    {"connect": serve_connect, "standalone": serve_standalone}[kind](Path(path))
