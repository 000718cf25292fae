"""A query that dbt started in Snowflake, tracked and stopped by the real commands."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from control_plane.errors import ExitCode
from control_plane.intake import NewPlane
from control_plane.planes import Platform
from tests.acceptance.site import Site, until
from tests.acceptance.snowflake import WAREHOUSE, settings_of
from tests.snowflake import ENDLESS, UNDER_WAY, SnowflakeDouble


@pytest.fixture
def site(sqlite_site: Site, snowflake_double: SnowflakeDouble) -> Site:
    """An installation with a worker and one plane, on Snowflake."""
    sqlite_site.intake.create_plane(NewPlane("warehouse", Platform.SNOWFLAKE))
    sqlite_site.worker(**settings_of(snowflake_double))
    return sqlite_site


class Elsewhere:
    """Whoever starts queries without us."""

    def __init__(self, double: SnowflakeDouble, sessions: ExitStack) -> None:
        self.double = double
        self._sessions = sessions

    def start(self, user: str, sql: str = ENDLESS) -> str:
        """A query in a session that stays open, once it computes or has ended; its id."""
        session = self._sessions.enter_context(self.double.connect(user, warehouse=WAREHOUSE))
        with session.cursor() as cursor:
            query_id = str(cursor.execute_async(sql)["queryId"])
        until(lambda: self.double.is_executing(query_id) or session.get_query_status(query_id).name not in UNDER_WAY)
        return query_id


@pytest.fixture
def elsewhere(snowflake_double: SnowflakeDouble) -> Iterator[Elsewhere]:
    with ExitStack() as sessions:
        yield Elsewhere(snowflake_double, sessions)


def track(query_id: str) -> list[str]:
    return ["jobs", "track", "--plane", "warehouse", "--handle", query_id, "--wait-cancel", "--json"]


@pytest.mark.parametrize("allowed", [["--user", "DBT"], ["--warehouse", WAREHOUSE], ["--role", "TRANSFORMER"]])
def test_one_command_stops_a_query_of_an_allowed_owner_and_prints_the_proof(
    site: Site, elsewhere: Elsewhere, allowed: list[str]
) -> None:
    query_id, neighbour, foreign = elsewhere.start("DBT"), elsewhere.start("DBT"), elsewhere.start("STRANGER")
    assert site.run("planes", "allow-tracking", "warehouse", *allowed).returncode == ExitCode.OK

    told = site.run(*track(query_id))

    assert told.returncode == ExitCode.OK, told.stderr
    receipt = json.loads(told.stdout)["receipt"]
    assert (receipt["outcome"], receipt["closure"], receipt["engine"]) == ("stopped", "single_run", "snowflake")
    assert receipt["handle"]["run_id"] == query_id
    assert receipt["engine_status"].startswith("FAILED_WITH_ERROR 000604")
    executing = elsewhere.double.state()["executing"]
    assert query_id not in executing
    assert {neighbour, foreign} <= set(executing)


def test_a_query_of_somebody_else_is_not_touched_and_the_remedy_is_told(site: Site, elsewhere: Elsewhere) -> None:
    query_id = elsewhere.start("STRANGER")
    site.run("planes", "allow-tracking", "warehouse", "--user", "DBT")

    asked = site.run("jobs", "track", "--plane", "warehouse", "--handle", query_id, "--json")
    job_id = json.loads(asked.stdout)["job_id"]
    site.run("jobs", "request-cancellation", job_id)

    def waits() -> bool:
        shown = json.loads(site.run("jobs", "show", job_id, "--json").stdout)
        return bool(shown["cancellation"]["waiting"] == "not_permitted")

    until(waits, what="not_permitted")
    shown = json.loads(site.run("jobs", "show", job_id, "--json").stdout)
    assert "user STRANGER" in shown["cancellation"]["waiting_detail"]
    assert "allow-tracking" in shown["cancellation"]["waiting_detail"]
    assert elsewhere.double.is_executing(query_id)


def test_a_query_that_had_succeeded_completes_its_tracked_job(site: Site, elsewhere: Elsewhere) -> None:
    query_id = elsewhere.start("DBT", "SELECT 1")
    site.run("planes", "allow-tracking", "warehouse", "--user", "DBT")

    told = site.run(*track(query_id))

    assert told.returncode == ExitCode.COMPLETED_FIRST, told.stderr
    assert json.loads(told.stdout)["result"]["engine_status"] == "SUCCESS"
