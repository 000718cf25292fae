"""A Snowflake plane for the contract: the real connector on both sides of an account that really runs queries."""

import secrets
from contextlib import ExitStack
from uuid import UUID

from msgspec import structs
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error

from adapters.snowflake.adapter import SnowflakeAdapter
from adapters.snowflake.outputs import OUTPUTS, Output
from control_plane.errors import Conflict
from control_plane.jobs import Purpose, with_purpose
from control_plane.work import Work
from tests.narrative import PLANE, named_work
from tests.snowflake import ENDLESS, SnowflakeDouble, until

WAREHOUSE = "COMPUTE_WH"
SESSION_GONE = {390104, 390111}


class SnowflakePlane:
    """Jobs run as EXECUTOR, each in a session of its own; the adapter is CANCELLER, who may stop and see them.

    It owns the user EXECUTOR, so that it may end that user's sessions. What it writes is in a database of its own.
    """

    def __init__(
        self,
        double: SnowflakeDouble,
        stack: ExitStack,
        *,
        installation: str = "tests",
        data_plane_id: UUID = PLANE,
        canceller: str = "CANCELLER",
    ) -> None:
        self.double = double
        self._stack = stack
        self._sessions: dict[UUID, SnowflakeConnection] = {}
        self.database = f"PLANE_{secrets.token_hex(4)}".upper()
        double.administer(
            f"CREATE DATABASE {self.database}", "GRANT OWNERSHIP ON USER EXECUTOR TO ROLE COUNTERMAND_CANCELLER"
        )
        self.account = double.account(database=self.database, warehouse=WAREHOUSE)
        self.adapter = SnowflakeAdapter(
            self.account,
            double.sign_in(canceller),
            installation=installation,
            data_plane_id=data_plane_id,
            timeout_seconds=10.0,
            executor_user="EXECUTOR",
            canary=double.sign_in("EXECUTOR"),
        )

    def work(self) -> Work:
        work = structs.replace(named_work(), incarnation=self.double.incarnation)
        self.open_session(work)
        return work

    def open_session(self, work: Work) -> SnowflakeConnection:
        """The job's own session, which it is found by before it has run anything."""
        session = self._stack.enter_context(
            self.double.connect("EXECUTOR", warehouse=WAREHOUSE, database=self.database)
        )
        with session.cursor() as cursor:
            cursor.execute(
                "SELECT CURRENT_SESSION()", _statement_params={"QUERY_TAG": with_purpose(work.tag, Purpose.SESSION)}
            )
        self._sessions[work.job_id] = session
        return session

    async def start(self, work: Work) -> None:
        self.submit(work, ENDLESS)

    def submit(self, work: Work, sql: str) -> str:
        """Begin what is the job's, in its own session; the query's id."""
        with self._sessions[work.job_id].cursor() as cursor:
            try:
                return str(cursor.execute_async(sql, _statement_params={"QUERY_TAG": work.tag})["queryId"])
            except Error as error:  # whatever was refused: the connector does not say why
                self._check_session(work)
                raise AssertionError("it was refused, and not for its session") from error

    def _check_session(self, work: Work) -> None:
        try:
            with self._sessions[work.job_id].cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            if error.errno not in SESSION_GONE:
                raise
            raise Conflict(f"tag: {work.tag} is closed", field="tag") from error

    async def succeed(self, work: Work) -> None:
        number = work.publication.number if work.publication else 0
        session = self._sessions[work.job_id]
        with session.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {self.database}.COUNTERMAND_OUTPUTS")
        query_id = self.submit(work, f"CREATE TABLE {self.output_of(work)} AS SELECT {number} AS N")
        until(lambda: session.get_query_status(query_id).name == "SUCCESS")

    def output_of(self, work: Work) -> str:
        """The table of the job's own."""
        return f'{self.database}.{OUTPUTS}."{Output.of_view(work.job_id).table}"'

    async def fail(self, work: Work) -> None:
        session = self._sessions[work.job_id]
        sql = "SELECT CAST(MD5(SEQ8()::VARCHAR) AS NUMBER) FROM TABLE(GENERATOR(ROWCOUNT => 10))"
        query_id = self.submit(work, sql)
        until(lambda: session.get_query_status(query_id).name == "FAILED_WITH_ERROR")

    async def shown(self) -> int | None:
        [[known]] = self._read(
            f"SELECT COUNT(*) FROM {self.database}.INFORMATION_SCHEMA.VIEWS WHERE TABLE_NAME = 'DS_6404'"
        )
        return int(self._read(f"SELECT N FROM {self.database}.COUNTERMAND_DATASETS.DS_6404")[0][0]) if known else None

    def _read(self, sql: str) -> list[tuple[int, ...]]:
        with self.double.connect("EXECUTOR", warehouse=WAREHOUSE) as session, session.cursor() as cursor:
            return list(cursor.execute(sql).fetchall())

    async def start_elsewhere(self, owner: str) -> str:
        session = self._stack.enter_context(self.double.connect(owner, warehouse=WAREHOUSE))
        with session.cursor() as cursor:
            return str(cursor.execute_async(ENDLESS)["queryId"])
