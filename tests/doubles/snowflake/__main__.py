"""``python -m tests.doubles.snowflake``: starts the account and says where it listens, in one line of JSON."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette

from tests.doubles.snowflake.account import NAME, Account
from tests.doubles.snowflake.administration import Administration
from tests.doubles.snowflake.app import SnowflakeProtocol
from tests.doubles.snowflake.control import Control
from tests.doubles.snowflake.engine import Enforcer, Engine
from tests.doubles.snowflake.executor import Executor
from tests.doubles.snowflake.faults import FaultBoard
from tests.doubles.snowflake.functions import Functions
from tests.doubles.snowflake.history import History
from tests.doubles.snowflake.interpreter import Interpreter
from tests.doubles.snowflake.locks import Locks
from tests.doubles.snowflake.losses import CloseableProtocol
from tests.doubles.snowflake.queries import QueryBook
from tests.doubles.snowflake.sessions import Session, SessionBook
from tests.doubles.snowflake.stopping import Stopper


def application(options: argparse.Namespace, queries: QueryBook) -> Starlette:
    """The account, put together."""
    account = Account.with_countermand(capacity=options.capacity)
    engine = Engine(threads=options.threads, memory_limit=options.memory_limit)
    faults, locks = FaultBoard(), Locks()

    def forget(session: Session) -> None:
        engine.forget(session)
        locks.release(session)

    sessions = SessionBook(forget)
    stopper = Stopper(account, faults, queries, sessions)
    history = History(account, faults, queries)
    administration = Administration(account, stopper)
    interpreter = Interpreter(account, faults, engine, history, Functions(stopper), administration, locks)
    executor = Executor(interpreter)
    protocol = SnowflakeProtocol(account, faults, sessions, queries, history, stopper, executor)
    control = Control(account, faults, sessions, queries, interpreter, protocol)
    return Starlette(routes=[*control.routes(), *protocol.routes()])


def open_door(host: str, port: int) -> socket.socket:
    """A listening socket, which says that it speaks TCP: only then does asyncio switch off Nagle's delays."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind((host, port))
    door.listen(2048)
    return door


async def serve(options: argparse.Namespace) -> None:
    """Answer until a signal comes; then whatever runs is over with the process."""
    queries = QueryBook()
    config = uvicorn.Config(
        application(options, queries),
        http=CloseableProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    Enforcer(queries)
    with open_door(options.host, options.port) as door:
        host, port = door.getsockname()[:2]
        ready = {"url": f"http://{host}:{port}", "host": host, "port": port, "account": NAME}
        sys.stdout.write(json.dumps(ready) + "\n")  # connections wait in the socket until they are served
        sys.stdout.flush()
        await server.serve(sockets=[door])


def main(arguments: Sequence[str] | None = None) -> None:
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of every word that DuckDB has no use for
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.snowflake", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--threads", type=int, default=1, help="DuckDB's; 1 lets each query burn its own thread alone")
    parser.add_argument("--memory-limit", default="1GB", help="DuckDB's")
    parser.add_argument("--capacity", type=int, default=1000, help="queries that COMPUTE_WH runs at a time")
    sys.setswitchinterval(0.0005)  # whoever asks for a status does not wait for a statement's thread
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args(arguments)))
    os._exit(0)  # queries that still run have threads, and nobody waits for them; the computing process ends by itself


if __name__ == "__main__":
    main()
