"""What the real commands make of an account on Snowflake: whether it can be cancelled on, and what is missing."""

import json
from collections.abc import Mapping
from subprocess import CompletedProcess
from uuid import UUID

import pytest

from control_plane.dispatch import Dispatch
from control_plane.errors import ExitCode
from control_plane.intake import NewPlane
from control_plane.planes import Platform
from control_plane.work import Executor
from tests.acceptance.site import Site
from tests.acceptance.snowflake import issued, settings_of, variables
from tests.snowflake import SnowflakeDouble

Settings = Mapping[str, str]


@pytest.fixture
def site(sqlite_site: Site) -> Site:
    """An installation with one plane, on Snowflake."""
    sqlite_site.intake.create_plane(NewPlane("snow", Platform.SNOWFLAKE))
    return sqlite_site


@pytest.fixture
def settings(snowflake_double: SnowflakeDouble) -> dict[str, str]:
    """A worker that is CANCELLER, and an executor that is EXECUTOR."""
    return settings_of(snowflake_double)


def check(site: Site, *arguments: str, **settings: str) -> CompletedProcess[str]:
    return site.run("planes", "check", *arguments, **settings)


# --- whether it can be cancelled on --------------------------------------------------------------------------------


def test_a_plane_whose_worker_sees_and_stops_the_executors_queries_is_ok(site: Site, settings: Settings) -> None:
    told = check(site, **settings)

    assert told.returncode == ExitCode.OK, told.stderr
    [line] = told.stdout.splitlines()
    assert line.startswith("snow: ok: CANCELLER sees and stops what EXECUTOR runs (")
    assert line.endswith(" s)")


def test_the_same_is_told_as_json(site: Site, settings: Settings) -> None:
    told = check(site, "snow", "--json", **settings)

    [record] = json.loads(told.stdout)["records"]
    assert (record["display_name"], record["platform"], record["ok"]) == ("snow", "platform_snowflake", True)
    assert record["seconds"] > 0


def test_a_plane_whose_worker_may_not_stop_the_executors_queries_is_not_ok(
    site: Site, settings: Settings, snowflake_double: SnowflakeDouble
) -> None:
    stranger = variables(worker_user="STRANGER", worker_token=issued(snowflake_double, "STRANGER"))

    told = check(site, **{**settings, **stranger}, **variables(call_timeout_seconds=8))

    assert told.returncode == ExitCode.CHECK_FAILED
    assert told.stdout.startswith("snow: not ok: STRANGER is not shown what EXECUTOR runs")


def test_a_worker_that_cannot_sign_in_as_the_executor_says_that_it_did_not_try(site: Site, settings: Settings) -> None:
    of_the_executor = next(name for name in settings if name.endswith("EXECUTOR__TOKEN"))

    told = check(site, **{**settings, of_the_executor: ""})

    assert told.returncode == ExitCode.CHECK_FAILED
    assert "snow: not ok: CANCELLER signs in, but whether it sees and stops what EXECUTOR runs was not" in told.stdout


def test_a_refused_token_is_told_and_not_repeated(site: Site, settings: Settings) -> None:
    told = check(site, **{**settings, **variables(worker_token="wr0ng-s3cret")})

    assert told.returncode == ExitCode.CHECK_FAILED
    assert "snow: not ok: COUNTERMAND refused CANCELLER: " in told.stdout
    assert "s3cret" not in told.stdout + told.stderr


def test_planes_are_checked_each_for_itself(site: Site, settings: Settings) -> None:
    site.plane()

    told = check(site, **settings)

    assert told.returncode == ExitCode.CHECK_FAILED
    assert sorted(line.partition(" (")[0] for line in told.stdout.splitlines()) == [
        "local: not ok: no executor is known here; has one been started for this plane?",
        "snow: ok: CANCELLER sees and stops what EXECUTOR runs",
    ]


def test_a_plane_that_there_is_not_is_named(site: Site) -> None:
    told = check(site, "nowhere")

    assert told.returncode == ExitCode.NOT_FOUND
    assert "there is no data plane 'nowhere'; there are snow" in told.stderr


def test_without_planes_nothing_is_wrong(sqlite_site: Site) -> None:
    told = check(sqlite_site)

    assert (told.returncode, told.stdout) == (ExitCode.OK, "No data planes.\n")


# --- the embedded engine's planes ----------------------------------------------------------------------------------


def silent_executor(site: Site, plane: UUID) -> Dispatch:
    """One that registered, and that nobody hears of any more; with it, what speaks for it."""
    dispatch = Dispatch(site.store)
    dispatch.register(Executor("job-executor-away", 1, "unix:/nowhere/run.sock"), data_plane_id=plane)
    return dispatch


def test_an_embedded_plane_is_ok_while_its_executors_answer(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    sqlite_site.executor(plane)

    told = check(sqlite_site, "local")

    assert told.returncode == ExitCode.OK
    assert told.stdout.startswith("local: ok: 1 of 1 executors answers (")


def test_an_executor_that_holds_no_job_may_be_away(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    sqlite_site.executor(plane)
    silent_executor(sqlite_site, plane)

    told = check(sqlite_site, "local")

    assert told.returncode == ExitCode.OK
    assert told.stdout.startswith("local: ok: 1 of 2 executors answers, and no other holds a job (")


def test_an_executor_that_holds_a_job_may_not_be_away(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    job_id = sqlite_site.submit(plane)
    dispatch = silent_executor(sqlite_site, plane)
    job = sqlite_site.intake.job(job_id)
    dispatch.start_one(job, Executor("job-executor-away", 1), incarnation="1")
    sqlite_site.executor(plane)

    told = check(sqlite_site, "local")

    assert told.returncode == ExitCode.CHECK_FAILED
    assert told.stdout.startswith("local: not ok: 1 of 2 executors answers; job-executor-away ")


# --- what is missing -----------------------------------------------------------------------------------------------

PLACE: dict[str, object] = {"account": "o-a", "database": "d", "warehouse": "w"}
WRONG: list[tuple[dict[str, object], tuple[str, ...]]] = [
    ({}, ("snowflake.account: no account is configured; set account in [snowflake]", "or SNOWFLAKE_ACCOUNT")),
    ({"account": "o-a"}, ("snowflake.database: ", "set database in [snowflake]", "or SNOWFLAKE_DATABASE")),
    (PLACE, ("snowflake.user: nobody is named to sign in", "COUNTERMAND_SNOWFLAKE__USER or SNOWFLAKE_USER")),
    (PLACE | {"user": "ada"}, (": there is no way for ada to sign in; set private_key_file, token_file, token or",)),
    (PLACE | {"user": "ada", "token_file": "/nowhere"}, (".token_file: /nowhere cannot be read: No such file",)),
    (PLACE | {"user": "ada", "token_file": "empty"}, (".token_file: empty is empty; a token is needed",)),
    (PLACE | {"user": "ada", "private_key_file": "/nowhere"}, (".private_key_file: /nowhere cannot be read",)),
    (
        PLACE | {"user": "ada", "private_key_file": "key", "private_key_password_file": "empty"},
        (".private_key_password_file: empty is empty; a private key password is needed",),
    ),
    (
        PLACE | {"user": "ada", "token": "s3cret", "private_key_password": "s3cret"},
        (".private_key_password: there is no private_key_file that it would open",),
    ),
    (PLACE | {"user": "ada", "workload_identity": "OIDC"}, (".workload_identity: OIDC needs a token_file or a token",)),
]


@pytest.mark.parametrize(("given", "mentions"), WRONG)
def test_what_is_missing_is_told_with_the_remedy_by_every_command_that_needs_it(
    site: Site, given: dict[str, object], mentions: tuple[str, ...]
) -> None:
    (site.folder / "empty").touch()
    (site.folder / "key").write_text("-----BEGIN PRIVATE KEY-----")
    settings = variables(**given)

    worker = site.run("worker", "--data-plane", "snow", **settings)
    executor = site.run("executor", "--data-plane", "snow", "--data-folder", "new", **settings)
    checked = check(site, **settings)

    assert (worker.returncode, executor.returncode) == (ExitCode.BAD_INPUT, ExitCode.BAD_INPUT)
    assert checked.returncode == ExitCode.CHECK_FAILED
    for told in (worker.stderr, executor.stderr, checked.stdout):
        assert [part for part in mentions if part not in told] == [], told
        assert "s3cret" not in told
    assert not (site.folder / "new").exists()


def test_an_executor_needs_a_warehouse(site: Site, settings: Settings) -> None:
    without = {name: value for name, value in settings.items() if not name.endswith("WAREHOUSE")}

    told = site.run("executor", "--data-plane", "snow", "--data-folder", "new", **without)

    assert told.returncode == ExitCode.BAD_INPUT
    assert "snowflake.warehouse: jobs need one to run on; set warehouse in [snowflake]" in told.stderr


def test_a_call_that_may_outlast_its_lease_is_refused(site: Site, settings: Settings) -> None:
    told = site.run("worker", "--data-plane", "snow", **{**settings, **variables(call_timeout_seconds=30)})

    assert told.returncode == ExitCode.BAD_INPUT
    assert "snowflake.call_timeout_seconds: 30 should be less than worker.lease_seconds, 30" in told.stderr


# --- what the log keeps to itself ----------------------------------------------------------------------------------


def test_no_secret_stands_in_the_log_of_a_worker_that_tells_everything(site: Site, settings: Settings) -> None:
    worker = site.worker(**{**settings, "COUNTERMAND_LOG_LEVEL": "debug"})

    checked = check(site, **{**settings, "COUNTERMAND_LOG_LEVEL": "debug"})

    assert worker.terminate() == 0
    tokens = [value for name, value in settings.items() if name.endswith("TOKEN")]
    told = worker.says() + checked.stdout + checked.stderr
    assert len(tokens) == 2
    assert [token for token in tokens if token in told] == []
