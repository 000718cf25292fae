"""A real Snowflake account for tests: the one in the settings, so treated that nothing of the run is left in it.

Whatever is started there has a time-out, is told to stop when its session is closed, and is started early enough that
all of it has ended within the seconds that the run may use the warehouse.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import NOT_ALLOWED, literal
from adapters.snowflake.sessions import NOT_FOUND
from config.settings import Settings
from config.snowflake import WAYS, Side
from tests.snowflake import UNDER_WAY, until
from workers.cli.snowflake import account_of, sign_in_of, warehouse_of

STATEMENT_SECONDS = 20
CALL_SECONDS = 20.0
SIDES: dict[str, Side] = {"EXECUTOR": "executor", "CANCELLER": "worker", "DBT": "executor"}


def missing(settings: Settings) -> str | None:
    """What to set before there is an account to try, in one line."""
    own = settings.snowflake
    lacking = [name for name in ("account", "database", "warehouse") if getattr(own, name) is None]
    for side in ("executor", "worker"):
        found = own.sign_in(side)
        if found.user is None or all(getattr(found, way) is None for way in WAYS):
            lacking.append(f"how the {side} signs in")
    if not lacking:
        return None
    return f"[snowflake] of the settings does not say: {', '.join(lacking)} (see docs/snowflake.md)"


class LiveAccount:
    """The account of these settings, as its executor and its worker sign in; DBT is the executor once more.

    *began*: a file with the moment from which the run's *seconds* of the warehouse count.
    """

    patience_seconds = 20.0

    def __init__(self, settings: Settings, began: Path, *, seconds: float) -> None:
        self._account = account_of(settings)
        self._sign_ins: dict[Side, SignIn] = {side: sign_in_of(settings, side) for side in set(SIDES.values())}
        self._began = began
        self._seconds = seconds
        self._open = ExitStack()
        self.warehouse = warehouse_of(settings)

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings, began: Path, *, seconds: float) -> Iterator[Self]:
        """Signed out in the end."""
        live = cls(settings, began, seconds=seconds)
        with live._open:
            yield live

    @cached_property
    def incarnation(self) -> str:
        [(name,)] = self._told("CANCELLER", "SELECT CURRENT_REGION() || '.' || CURRENT_ACCOUNT()")
        return str(name)

    def user(self, user: str) -> str:
        return self._sign_ins[SIDES[user]].user.upper()

    def account(self, *, warehouse: str | None = None) -> Account:
        return replace(self._account, warehouse=warehouse)

    def sign_in(self, user: str) -> SignIn:
        return self._sign_ins[SIDES[user]]

    @contextmanager
    def connect(self, user: str = "EXECUTOR", **options: Any) -> Iterator[SnowflakeConnection]:
        """A session whose queries are told to stop before it is closed."""
        if options.get("warehouse") is not None:
            self._demand_time_on_the_warehouse()
        session = self._session(user, **options)
        try:
            yield session
        finally:
            self._stop_everything_in(session.session_id, user)
            session.close()

    @contextmanager
    def own_database(self) -> Iterator[str]:
        """Of the executor's, and dropped; never another, whatever may be in the configured one."""
        name = f"COUNTERMAND_LIVE_{secrets.token_hex(4)}".upper()
        try:
            self._told("EXECUTOR", f"CREATE DATABASE {name}")
        except Error as error:
            if error.errno not in NOT_ALLOWED:
                raise
            pytest.skip(f"{self.user('EXECUTOR')} may not CREATE DATABASE, and nothing is written into any other")
        try:
            yield name
        finally:
            self._told("EXECUTOR", f"DROP DATABASE {name}")

    def demand_sessions_to_be_ended(self) -> None:
        """Skip the test where the canceller may not end the executor's sessions: nothing is granted here."""
        if not self._ends_sessions:
            pytest.skip(
                f"{self.user('CANCELLER')} may not end the sessions of {self.user('EXECUTOR')}: "
                "see OPTIONAL in deploy/snowflake/grants.sql"
            )

    def is_executing(self, query_id: str) -> bool:
        return self._watching("EXECUTOR").get_query_status(query_id).name in UNDER_WAY

    def until_listed(self, query_id: str) -> None:
        of_user = f"USER_NAME => {literal(self.user('EXECUTOR'))}, RESULT_LIMIT => 10000"
        sql = (
            f"SELECT 1 FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY_BY_USER({of_user}))"
            f" WHERE QUERY_ID = {literal(query_id)}"
        )
        until(lambda: self._told("CANCELLER", sql))

    # --- inside

    @cached_property
    def _ends_sessions(self) -> bool:
        with self.connect("EXECUTOR") as session:
            try:
                self._told("CANCELLER", f"SELECT SYSTEM$ABORT_SESSION({session.session_id})")
            except Error as error:
                if error.errno not in NOT_ALLOWED:
                    raise
                return False
        return True

    def _session(self, user: str, *, warehouse: str | None = None, **parameters: str) -> SnowflakeConnection:
        seconds = str(STATEMENT_SECONDS)
        options = self.account(warehouse=warehouse).options(
            self.sign_in(user),
            timeout_seconds=CALL_SECONDS,
            with_warehouse=True,
            STATEMENT_TIMEOUT_IN_SECONDS=seconds,
            STATEMENT_QUEUED_TIMEOUT_IN_SECONDS=seconds,
            **parameters,
        )
        return snowflake.connector.connect(**options)

    def _watching(self, user: str) -> SnowflakeConnection:
        """A session of the user without a warehouse, for whatever has to be asked or stopped beside a test."""
        if user not in self._watchers:
            self._watchers[user] = self._session(user)
            self._open.callback(self._watchers[user].close)
        return self._watchers[user]

    @cached_property
    def _watchers(self) -> dict[str, SnowflakeConnection]:
        return {}

    def _told(self, user: str, sql: str) -> list[Any]:
        with self._watching(user).cursor() as cursor:
            return cursor.execute(sql).fetchall()

    def _stop_everything_in(self, session_id: int, user: str) -> None:
        """As the session's own user, who needs no privilege for it; a session that was ended has nothing left."""
        try:
            self._told(user, f"SELECT SYSTEM$CANCEL_ALL_QUERIES({session_id:d})")
        except Error as error:
            if error.errno != NOT_FOUND:
                raise

    def _demand_time_on_the_warehouse(self) -> None:
        """Late enough to be too late is so early that what is started now will have met its time-out by the end."""
        used = time.time() - float(self._began.read_text())
        if used > self._seconds - STATEMENT_SECONDS:
            pytest.fail(
                f"not begun: after {used:.0f} s what it starts could run beyond the {self._seconds:g} s that this run "
                "may use the warehouse; allow it more (--snowflake-seconds), or run what was not begun (--last-failed)",
                pytrace=False,
            )
