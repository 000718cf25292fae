"""``deploy/snowflake/grants.sql`` is enough to run and to cancel, and what it says is missing without a grant, is."""

import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import NoEncryption
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error

from adapters.base import Check
from adapters.snowflake.account import SignIn
from adapters.snowflake.adapter import SnowflakeAdapter
from tests.integration.snowflake.given import cancel, rows, submit_executing
from tests.integration.snowflake.test_signing_in import new_key
from tests.narrative import PLANE
from tests.snowflake import SnowflakeDouble, until

pytestmark = pytest.mark.anyio

FILE = Path(__file__).parents[3] / "deploy" / "snowflake" / "grants.sql"
OPTIONAL = "-- OPTIONAL: "
USERS = ("COUNTERMAND_EXECUTOR", "COUNTERMAND_CANCELLER")


@dataclass(frozen=True)
class SetUp:
    """An account that the file was run on, with a warehouse and a database of the test's own."""

    double: SnowflakeDouble
    folder: Path
    warehouse: str
    database: str

    def run(self, *, without: str = "", optional: bool = False) -> None:
        """Run the file as the administrator does, but for the statements that begin like this."""
        text = FILE.read_text().replace(OPTIONAL if optional else "\0", "")
        for user in USERS:
            public_key = new_key(self.key(user), NoEncryption())
            text = text.replace(f"<{user.removeprefix('COUNTERMAND_')}_PUBLIC_KEY>", public_key)
        assert "<" not in statements(text)
        text = re.sub(r"\bCOMPUTE_WH\b", self.warehouse, re.sub(r"\bCOUNTERMAND\b", self.database, text))
        wanted = [one for one in statements(text).split(";") if one.strip()]
        self.double.administer(*(one for one in wanted if not (without and one.strip().startswith(without))))
        keys = [f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{public_half(text, user)}'" for user in USERS]
        self.double.administer(*keys)  # another test had made the users before

    def key(self, user: str) -> Path:
        return self.folder / f"{user}.p8"

    def sign_in(self, user: str) -> SignIn:
        return SignIn(user=user, private_key_file=self.key(user))

    async def check(self) -> Check:
        """Whether the canceller that the file made can cancel what the executor that it made runs."""
        adapter = SnowflakeAdapter(
            self.double.account(database=self.database, warehouse=self.warehouse),
            self.sign_in("COUNTERMAND_CANCELLER"),
            installation="tests",
            data_plane_id=PLANE,
            timeout_seconds=20,
            executor_user="COUNTERMAND_EXECUTOR",
            canary=self.sign_in("COUNTERMAND_EXECUTOR"),
        )
        try:
            return await adapter.check()
        finally:
            await adapter.aclose()

    def connect(self, user: str) -> AbstractContextManager[SnowflakeConnection]:
        """A session of one of the users, with what its own defaults would give it."""
        warehouse = {"warehouse": self.warehouse} if user == "COUNTERMAND_EXECUTOR" else {}
        by_key = {"authenticator": "SNOWFLAKE_JWT", "private_key_file": str(self.key(user)), "password": None}
        return self.double.connect(user, database=self.database, **by_key, **warehouse)


def statements(text: str) -> str:
    """The file without its comments."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("--"))


def public_half(text: str, user: str) -> str:
    """The key that the file gives the user."""
    found = re.search(rf"CREATE USER IF NOT EXISTS {user}\b[^;]*RSA_PUBLIC_KEY = '([^']*)'", text)
    assert found
    return found[1]


@pytest.fixture
def set_up(snowflake_double: SnowflakeDouble, tmp_path: Path) -> Iterator[SetUp]:
    """Nothing is granted yet on its warehouse; what other tests are granted stays as it is."""
    suffix = secrets.token_hex(4).upper()
    snowflake_double.administer(f"CREATE WAREHOUSE WH_{suffix}")
    yield SetUp(snowflake_double, tmp_path, f"WH_{suffix}", f"DB_{suffix}")
    snowflake_double.administer("REVOKE OWNERSHIP ON USER COUNTERMAND_EXECUTOR FROM ROLE COUNTERMAND_CANCELLER")


async def test_the_canceller_sees_and_stops_what_the_executor_runs(set_up: SetUp) -> None:
    set_up.run()

    check = await set_up.check()

    assert check == Check(
        ok=True, detail="COUNTERMAND_CANCELLER sees and stops what COUNTERMAND_EXECUTOR runs", seconds=check.seconds
    )


def test_the_executor_computes_and_writes_and_the_canceller_stops_it_without_a_warehouse(set_up: SetUp) -> None:
    set_up.run()

    with set_up.connect("COUNTERMAND_EXECUTOR") as executor, set_up.connect("COUNTERMAND_CANCELLER") as canceller:
        rows(executor, f"CREATE SCHEMA {set_up.database}.COUNTERMAND_OUTPUTS")
        rows(executor, f"CREATE TABLE {set_up.database}.COUNTERMAND_OUTPUTS.T AS SELECT 1 AS N")
        query_id = submit_executing(set_up.double, executor)
        [(warehouse,)] = rows(canceller, "SELECT CURRENT_WAREHOUSE()")
        cancel(canceller, query_id)

        until(lambda: not set_up.double.is_executing(query_id))
        assert warehouse is None


async def test_without_operate_nothing_is_stopped(set_up: SetUp) -> None:
    set_up.run(without="GRANT OPERATE")

    check = await set_up.check()

    assert not check.ok
    assert "COUNTERMAND_CANCELLER may not: " in check.detail


def test_without_usage_no_job_runs(set_up: SetUp) -> None:
    set_up.run(without="GRANT USAGE ON WAREHOUSE")

    with set_up.connect("COUNTERMAND_EXECUTOR") as executor:
        rows(executor, f"CREATE SCHEMA {set_up.database}.S")
        with pytest.raises(Error, match="warehouse"):
            rows(executor, f"CREATE TABLE {set_up.database}.S.T AS SELECT 1 AS N")


def test_the_executors_sessions_are_the_cancellers_to_end_only_with_the_optional_grant(set_up: SetUp) -> None:
    set_up.run()
    with set_up.connect("COUNTERMAND_EXECUTOR") as executor, set_up.connect("COUNTERMAND_CANCELLER") as canceller:
        abort = f"SELECT SYSTEM$ABORT_SESSION({executor.session_id})"

        with pytest.raises(Error):
            rows(canceller, abort)
        set_up.run(optional=True)
        rows(canceller, abort)

        with pytest.raises(Error):
            rows(executor, "SELECT 1")


def test_the_file_may_be_run_again(set_up: SetUp) -> None:
    set_up.run()
    set_up.run()

    with set_up.connect("COUNTERMAND_CANCELLER") as canceller:
        assert rows(canceller, "SELECT CURRENT_USER(), CURRENT_ROLE()") == [("COUNTERMAND_CANCELLER",) * 2]


def test_the_canceller_is_granted_nothing_else() -> None:
    granted = re.findall(r"GRANT (.*?) TO (?:ROLE|USER) COUNTERMAND_CANCELLER", statements(FILE.read_text()))

    assert granted == [
        "ROLE COUNTERMAND_CANCELLER",
        "OPERATE ON WAREHOUSE COMPUTE_WH",
        "MONITOR ON WAREHOUSE COMPUTE_WH",
        "USAGE ON DATABASE COUNTERMAND",
    ]
