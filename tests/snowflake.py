"""A Snowflake account for tests: the double as a process, the real connector, and SQL that runs for minutes."""

import json
import secrets
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
import psutil
import snowflake.connector
from pydantic import SecretStr
from snowflake.connector import SnowflakeConnection, aio

from adapters.snowflake.account import Account, SignIn, TokenKind

ROOT = Path(__file__).parents[1]
QUICK = "SELECT 1 AS N"
#: A hundred thousand million rows that exist only while they are read. Each is costly: after every piece of work DuckDB
#: asks for Python's lock, and hundreds of queries with small pieces would keep each other from ending.
ENDLESS = (
    "SELECT COUNT(*) FROM TABLE(GENERATOR(ROWCOUNT => 100000000000)) WHERE MD5(REPEAT(SEQ8()::VARCHAR, 50)) = 'never'"
)
#: Statuses of a query that has not ended.
UNDER_WAY = {
    "RUNNING", "QUEUED", "BLOCKED", "RESUMING_WAREHOUSE", "QUEUED_REPARING_WAREHOUSE", "RESTARTED", "ABORTING",
}  # fmt: skip


class SnowflakeAccount(Protocol):
    """What a test that also runs against a real account may ask of one: no faults, and no truth but what it tells.

    Its users are EXECUTOR, CANCELLER and DBT, whatever the account itself calls them.
    """

    @property
    def incarnation(self) -> str:
        """The account's name, as handles bear it."""

    @property
    def warehouse(self) -> str:
        """Where jobs run."""

    @property
    def patience_seconds(self) -> float:
        """How long a worker waits here before it climbs to the next rung."""

    def user(self, user: str) -> str:
        """What the account calls the user."""

    def account(self, *, warehouse: str | None = None) -> Account:
        """Where it answers, with a database that nothing is to be written into."""

    def sign_in(self, user: str) -> SignIn:
        """How the user signs in."""

    def connect(self, user: str = "EXECUTOR", **options: Any) -> AbstractContextManager[SnowflakeConnection]:
        """A session of the user, closed in the end."""

    def own_database(self) -> AbstractContextManager[str]:
        """A new database, made by EXECUTOR."""

    def is_executing(self, query_id: str) -> bool:
        """Whether the query has begun and not ended."""

    def until_listed(self, query_id: str) -> None:
        """Wait until the history shows the query to CANCELLER."""


class SnowflakeDouble:
    """The process, as a test sees it: connections to it, its faults, and the truth about it."""

    warehouse = "COMPUTE_WH"
    patience_seconds = 2.0

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        self.url: str = ready["url"]
        self.process = psutil.Process(process.pid)
        self._address: dict[str, Any] = {
            "host": ready["host"],
            "port": ready["port"],
            "account": ready["account"],
            "protocol": "http",
        }
        self._control = httpx.Client(base_url=self.url, timeout=60.0)

    @classmethod
    @contextmanager
    def started(cls, *options: str) -> Iterator[Self]:
        """A new account; whatever runs in it ends with the context."""
        command = [sys.executable, "-m", "tests.doubles.snowflake", *options]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                double = cls(process)
                yield double
                double._control.close()
            finally:
                process.kill()

    def options(self, user: str, **options: Any) -> dict[str, Any]:
        """How the real connector reaches it, with every time-out set."""
        return {
            **self._address,
            "user": user,
            "password": user.lower(),
            "login_timeout": 20,
            "request_timeout": 20,
            "query_timeout": 60,
            "connect_timeout": 5,
            "retry_timeout": 20,
            "enable_server_session_keep_alive_auto_detection": False,  # unset, it warns
        } | options

    @property
    def incarnation(self) -> str:
        """The account's name, as handles bear it."""
        return f"LOCAL.{self._address['account']}"

    def user(self, user: str) -> str:
        """The users' names are their own."""
        return user

    @contextmanager
    def own_database(self) -> Iterator[str]:
        """Nobody drops it: it ends with the process."""
        name = f"PLANE_{secrets.token_hex(4)}".upper()
        self.administer(f"CREATE DATABASE {name}")
        yield name

    @contextmanager
    def sessions_to_be_ended(self) -> Iterator[None]:
        """CANCELLER owns the user EXECUTOR, and so may end its sessions, as long as the context lasts."""
        self.administer("GRANT OWNERSHIP ON USER EXECUTOR TO ROLE COUNTERMAND_CANCELLER")
        try:
            yield
        finally:
            self.administer("REVOKE OWNERSHIP ON USER EXECUTOR FROM ROLE COUNTERMAND_CANCELLER")

    def until_listed(self, query_id: str) -> None:
        """Its history has no lag, but where a fault gives it one."""

    def account(self, *, database: str = "ANALYTICS", warehouse: str | None = None) -> Account:
        """Where it answers, as adapter and executor take it."""
        return Account(**self._address, database=database, warehouse=warehouse)

    def sign_in(self, user: str) -> SignIn:
        """How the user signs in: by a token, as services do."""
        token = secrets.token_hex(16)
        self.issue_oauth_token(user, token)
        return SignIn(user=user, token=SecretStr(token), token_kind=TokenKind.OAUTH)

    @contextmanager
    def connect(self, user: str = "EXECUTOR", **options: Any) -> Iterator[SnowflakeConnection]:
        """A session of the user, closed in the end."""
        connection = snowflake.connector.connect(**self.options(user, **options))
        try:
            yield connection
        finally:
            connection.close()

    async def connect_async(self, user: str = "EXECUTOR", **options: Any) -> aio.SnowflakeConnection:
        """A session of the user, for asyncio; whoever asks closes it."""
        return await aio.connect(**self.options(user, **options))

    def switch(self, **faults: Any) -> None:
        """Set these faults, leave the others."""
        self._control.post("/_double/faults", json=faults).raise_for_status()

    def calm(self) -> None:
        """No faults any more, and no query that runs."""
        self._control.post("/_double/calm").raise_for_status()

    def lose_sessions(self, user: str, loss: str) -> None:
        """Let every session of the user be lost in this way."""
        self._control.post("/_double/sessions/lose", json={"user": user, "loss": loss}).raise_for_status()

    def issue_oauth_token(self, user: str, token: str) -> None:
        """Let the token be good for the user."""
        self._control.post("/_double/oauth-tokens", json={"user": user, "token": token}).raise_for_status()

    def state(self) -> dict[str, Any]:
        """The truth about it."""
        found: dict[str, Any] = self._control.get("/_double/state").json()
        return found

    def administer(self, *statements: str) -> list[str]:
        """Run the statements as the administrator; what each answered first."""
        with self.connect("ADMIN", role="ACCOUNTADMIN") as connection, connection.cursor() as cursor:
            return [str(cursor.execute(statement).fetchall()[0][0]) for statement in statements]

    def asked(self, connection: SnowflakeConnection, path: str, **parameters: Any) -> dict[str, Any]:
        """What the protocol answers in this session to a GET that the connector offers no method for."""
        found = self._control.get(path, params=parameters, headers=authorization_of(connection))
        answer: dict[str, Any] = found.raise_for_status().json()
        return answer

    def is_executing(self, query_id: str) -> bool:
        """Whether the query really computes."""
        return query_id in self.state()["executing"]

    def is_idle(self) -> bool:
        """Whether its processes have used less than a fifth of a processor for a quarter of a second."""
        began, used = time.monotonic(), self.cpu_seconds()
        time.sleep(0.25)
        return (self.cpu_seconds() - used) / (time.monotonic() - began) < 0.2

    def cpu_seconds(self) -> float:
        """What its processes have used so far."""
        times = [process.cpu_times() for process in (self.process, *self.process.children())]
        return sum(each.user + each.system for each in times)


def token_of(connection: SnowflakeConnection) -> str:
    """The session's token now, which the connector gives away only by what it calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return str(connection.rest.token)


def authorization_of(connection: SnowflakeConnection) -> dict[str, str]:
    """The header that lets a plain HTTP client speak in this session."""
    return {"Authorization": f'Snowflake Token="{token_of(connection)}"'}


def until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Look until it is so; AssertionError when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {seconds:g} s"
        time.sleep(0.02)
