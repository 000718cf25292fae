"""A Snowflake plane for the contract: the real connector on both sides of an account that really runs queries.

The account is the double, or a real one.
"""

import secrets
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from uuid import UUID, uuid4

from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error

from adapters.snowflake.account import Account
from adapters.snowflake.adapter import SnowflakeAdapter
from adapters.snowflake.outputs import OUTPUTS, Output
from control_plane.errors import Conflict
from control_plane.jobs import Purpose, with_purpose, work_tag
from control_plane.work import Work
from tests.narrative import PLANE
from tests.snowflake import ENDLESS, SnowflakeAccount, until

SESSION_GONE = {390104, 390111}


class SnowflakePlane:
    """Jobs run as EXECUTOR, each in a session of its own; the adapter is CANCELLER, who may stop and see them.

    What is written is in a database of its own, which is made for the first output.
    No two planes have the same tags, so that several can be tried on one account at once.
    """

    def __init__(
        self,
        snowflake: SnowflakeAccount,
        stack: ExitStack,
        *,
        installation: str | None = None,
        data_plane_id: UUID = PLANE,
        canceller: str = "CANCELLER",
    ) -> None:
        self.snowflake = snowflake
        self._installation = installation or f"tests-{secrets.token_hex(4)}"
        self._data_plane_id = data_plane_id
        self._stack = stack
        self._sessions: dict[UUID, SnowflakeConnection] = {}
        self.account = snowflake.account(warehouse=snowflake.warehouse)
        self.outsider = snowflake.user("DBT").lower()
        self.adapter = self._adapter_as(canceller, self.account)

    def _adapter_as(self, user: str, account: Account) -> SnowflakeAdapter:
        return SnowflakeAdapter(
            account,
            self.snowflake.sign_in(user),
            installation=self._installation,
            data_plane_id=self._data_plane_id,
            timeout_seconds=60.0,
            executor_user=self.snowflake.user("EXECUTOR"),
            canary=self.snowflake.sign_in("EXECUTOR"),
        )

    @cached_property
    def database(self) -> str:
        return self._stack.enter_context(self.snowflake.own_database())

    @cached_property
    def writer(self) -> SnowflakeAdapter:
        """Signed in as EXECUTOR: with the grants that we ask for, CANCELLER may write nothing."""
        return self._adapter_as("EXECUTOR", replace(self.account, database=self.database))

    async def aclose(self) -> None:
        """Sign the adapters out."""
        await self.adapter.aclose()
        if "writer" in vars(self):
            await self.writer.aclose()

    def work(self) -> Work:
        job_id = uuid4()
        tag = work_tag(self._installation, self._data_plane_id, job_id)
        work = Work(job_id, tag, incarnation=self.snowflake.incarnation)
        self.open_session(work)
        return work

    def open_session(self, work: Work) -> SnowflakeConnection:
        """The job's own session, which it is found by before it has run anything."""
        session = self._stack.enter_context(self.snowflake.connect("EXECUTOR", warehouse=self.snowflake.warehouse))
        with session.cursor() as cursor:
            cursor.execute(
                "SELECT CURRENT_SESSION()", _statement_params={"QUERY_TAG": with_purpose(work.tag, Purpose.SESSION)}
            )
            self.snowflake.until_listed(str(cursor.sfqid))
        self._sessions[work.job_id] = session
        return session

    def close_session(self, work: Work) -> None:
        """Sign the job's own session out."""
        self._sessions[work.job_id].close()

    async def start(self, work: Work) -> None:
        self.snowflake.until_listed(self.submit(work, ENDLESS))

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
        self.snowflake.until_listed(query_id)

    def output_of(self, work: Work) -> str:
        """The table of the job's own."""
        return f'{self.database}.{OUTPUTS}."{Output.of_view(work.job_id).table}"'

    async def fail(self, work: Work) -> None:
        session = self._sessions[work.job_id]
        sql = "SELECT CAST(MD5(SEQ8()::VARCHAR) AS NUMBER) FROM TABLE(GENERATOR(ROWCOUNT => 10))"
        query_id = self.submit(work, sql)
        until(lambda: session.get_query_status(query_id).name == "FAILED_WITH_ERROR")
        self.snowflake.until_listed(query_id)

    async def shown(self) -> int | None:
        [[known]] = self._read(
            f"SELECT COUNT(*) FROM {self.database}.INFORMATION_SCHEMA.VIEWS WHERE TABLE_NAME = 'DS_6404'"
        )
        return int(self._read(f"SELECT N FROM {self.database}.COUNTERMAND_DATASETS.DS_6404")[0][0]) if known else None

    def _read(self, sql: str) -> list[tuple[int, ...]]:
        with (
            self.snowflake.connect("EXECUTOR", warehouse=self.snowflake.warehouse) as session,
            session.cursor() as cursor,
        ):
            return list(cursor.execute(sql).fetchall())

    async def start_elsewhere(self, owner: str) -> str:
        connecting = self.snowflake.connect(owner.upper(), warehouse=self.snowflake.warehouse)
        with self._stack.enter_context(connecting).cursor() as cursor:
            query_id = str(cursor.execute_async(ENDLESS)["queryId"])
        self.snowflake.until_listed(query_id)
        return query_id
