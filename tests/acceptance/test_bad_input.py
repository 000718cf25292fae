"""What cannot be right gets one clear sentence, a documented exit code, and changes nothing."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import inspect

from control_plane.dispatch import Dispatch
from control_plane.errors import ExitCode
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import ExecutionCluster, JobType
from control_plane.lifecycle import JobState
from control_plane.migrations import upgrade
from control_plane.planes import Platform
from control_plane.store import open_engine
from control_plane.work import Executor
from tests.acceptance.site import PERSON, ROOT, Site, site_of, until
from tests.databases import Databases
from tests.narrative import QUICK
from tests.postgres import Postgres
from workers.engines.folder import Folder

NOBODY = "00000000-0000-4000-8000-000000000000"
SUBMIT = ("jobs", "submit", "--data-plane", "local", "--type", "nql-forecast", "--input")
ON_SPARK = ("jobs", "submit", "--data-plane", "spark", "--type", "nql-forecast", "--input")
FORECAST = json.dumps({"nql": "SELECT 1", "compiled_sql": "SELECT 1"})
OUTPUTS = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'outputs'"


class Bad(NamedTuple):
    """A command line, how it exits, and what its one sentence has to mention: the field, and what is allowed."""

    name: str
    arguments: tuple[str, ...]
    exits: ExitCode
    mentions: tuple[str, ...]


BAD = [
    Bad("an unknown job, shown", ("jobs", "show", NOBODY), ExitCode.NOT_FOUND, ("job_id", NOBODY)),
    Bad(
        "an unknown job, cancelled",
        ("jobs", "request-cancellation", NOBODY),
        ExitCode.NOT_FOUND,
        ("job_id", NOBODY),
    ),
    Bad("a job id that is none", ("jobs", "show", "6f1c"), ExitCode.BAD_INPUT, ("job_id", "'6f1c'", "UUID")),
    Bad(
        "a job that cannot be cancelled",
        ("jobs", "request-cancellation", "{delivery}"),
        ExitCode.NOT_CANCELLABLE,
        ("type", "datasets_deliver_data", "supported", "materialize-view"),
    ),
    Bad(
        "a foreign state",
        ("jobs", "list", "--state", "aborted"),
        ExitCode.BAD_INPUT,
        ("state", "'aborted'", "pending_cancellation", "completed"),
    ),
    Bad(
        "a foreign type, listed",
        ("jobs", "list", "--type", "sql"),
        ExitCode.BAD_INPUT,
        ("type", "'sql'", "nql-forecast"),
    ),
    Bad("a foreign order", ("jobs", "list", "--order-by", "age"), ExitCode.BAD_INPUT, ("order_by", "created_at_asc")),
    Bad("a page too long", ("jobs", "list", "--per-page", "501"), ExitCode.BAD_INPUT, ("per_page", "500")),
    Bad("a page before the first", ("jobs", "list", "--offset", "-1"), ExitCode.BAD_INPUT, ("offset", "0")),
    Bad("malformed JSON", (*SUBMIT, '{"nql": '), ExitCode.BAD_INPUT, ("input", "JSON")),
    Bad("JSON that is no object", (*SUBMIT, "[1]"), ExitCode.BAD_INPUT, ("input", "object")),
    Bad("JSON nested too deeply", (*SUBMIT, "[" * 50_000), ExitCode.BAD_INPUT, ("input",)),
    Bad("an input file that is not there", (*SUBMIT, "@/nowhere"), ExitCode.BAD_INPUT, ("input", "/nowhere")),
    Bad("an input that lacks its SQL", (*SUBMIT, '{"nql": "SELECT 1"}'), ExitCode.BAD_INPUT, ("input", "compiled_sql")),
    Bad(
        "an input with a field of its own",
        (*SUBMIT, '{"nql": "SELECT 1", "compiled_sql": "SELECT 1", "color": "red"}'),
        ExitCode.BAD_INPUT,
        ("input", "color", "fields nql, compiled_sql"),
    ),
    Bad(
        "SQL that is no text",
        (*SUBMIT, '{"nql": "SELECT 1", "compiled_sql": 1}'),
        ExitCode.BAD_INPUT,
        ("input", "compiled_sql"),
    ),
    Bad(
        "a foreign type, submitted",
        ("jobs", "submit", "--data-plane", "local", "--type", "sql", "--input", FORECAST),
        ExitCode.BAD_INPUT,
        ("type", "'sql'", "nql-forecast"),
    ),
    Bad(
        "a foreign cluster",
        (*SUBMIT, FORECAST, "--execution-cluster", "huge"),
        ExitCode.BAD_INPUT,
        ("execution_cluster", "'huge'", "dedicated", "shared"),
    ),
    Bad(
        "a cluster that the plane does not have",
        (*ON_SPARK, FORECAST, "--execution-cluster", "dedicated"),
        ExitCode.BAD_INPUT,
        ("execution_cluster: spark has no dedicated cluster, only shared", "leave it out"),
    ),
    Bad("a retry of nothing", (*SUBMIT, FORECAST, "--retry-of", NOBODY), ExitCode.NOT_FOUND, (NOBODY,)),
    Bad(
        "a key that another job has",
        (*SUBMIT, FORECAST, "--idempotency-key", "taken"),
        ExitCode.CONFLICT,
        ("idempotency_key", "'taken'"),
    ),
    Bad(
        "a plane that does not exist, submitted to",
        ("jobs", "submit", "--data-plane", "nowhere", "--type", "nql-forecast", "--input", FORECAST),
        ExitCode.NOT_FOUND,
        ("data_plane", "'nowhere'", "local"),
    ),
    Bad(
        "a plane that does not exist, listed",
        ("jobs", "list", "--data-plane", "nowhere"),
        ExitCode.NOT_FOUND,
        ("data_plane", "'nowhere'", "local"),
    ),
    Bad(
        "a plane that does not exist, worked",
        ("worker", "--data-plane", "nowhere"),
        ExitCode.NOT_FOUND,
        ("data_plane", "'nowhere'", "local"),
    ),
    Bad(
        "a plane that does not exist, executed",
        ("executor", "--data-plane", "nowhere", "--data-folder", "new"),
        ExitCode.NOT_FOUND,
        ("data_plane", "'nowhere'", "local"),
    ),
    Bad(
        "a plane that exists already",
        ("planes", "create", "local"),
        ExitCode.CONFLICT,
        ("display_name", "'local'"),
    ),
    Bad(
        "a foreign platform",
        ("planes", "create", "new", "--platform", "spark"),
        ExitCode.BAD_INPUT,
        ("platform", "'spark'", "platform_aws", "platform_snowflake"),
    ),
    Bad(
        "a foreign cluster of a plane",
        ("planes", "create", "new", "--cluster", "huge"),
        ExitCode.BAD_INPUT,
        ("execution_clusters", "'huge'", "shared", "dedicated"),
    ),
    Bad(
        "a cluster of a plane on another platform",
        ("planes", "create", "new", "--platform", "platform_snowflake", "--cluster", "shared"),
        ExitCode.BAD_INPUT,
        ("execution_clusters", "platform_aws", "leave it out"),
    ),
    Bad(
        "a permit of no length",
        ("planes", "create", "new", "--permit-seconds", "0"),
        ExitCode.BAD_INPUT,
        ("permit_seconds", "> 0"),
    ),
    Bad(
        "a data folder that is a file",
        ("executor", "--data-plane", "local", "--data-folder", "/dev/null"),
        ExitCode.REFUSED,
        ("data_folder", "/dev/null"),
    ),
    Bad(
        "a data folder without a name",
        ("executor", "--data-plane", "local", "--data-folder", ""),
        ExitCode.BAD_INPUT,
        ("data_folder", "empty"),
    ),
    Bad(
        "a token file that is a folder",
        ("executor", "--data-plane", "local", "--data-folder", "new", "--listen-token-file", "/"),
        ExitCode.BAD_INPUT,
        ("listen_token_file: / cannot be read: Is a directory",),
    ),
    Bad(
        "a plane whose account is not configured, worked",
        ("worker", "--data-plane", "snow"),
        ExitCode.BAD_INPUT,
        ("snowflake.account", "no account is configured", "[snowflake]", "COUNTERMAND_SNOWFLAKE__ACCOUNT"),
    ),
    Bad(
        "a plane whose account is not configured, executed",
        ("executor", "--data-plane", "snow", "--data-folder", "new"),
        ExitCode.BAD_INPUT,
        ("snowflake.account", "no account is configured", "[snowflake]", "COUNTERMAND_SNOWFLAKE__ACCOUNT"),
    ),
    Bad(
        "a plane whose cluster is nowhere, worked",
        ("worker", "--data-plane", "spark"),
        ExitCode.BAD_INPUT,
        ("spark.connect_url", "where the shared cluster is", "[spark]", "COUNTERMAND_SPARK__CONNECT_URL"),
    ),
    Bad(
        "a plane whose clusters are nowhere, executed",
        ("executor", "--data-plane", "spark", "--data-folder", "new"),
        ExitCode.BAD_INPUT,
        ("spark.connect_url", "spark has clusters of Spark (shared), and nothing says where", "[spark]"),
    ),
    Bad(
        "an option of the embedded engine on Spark",
        ("executor", "--data-plane", "spark", "--data-folder", "new", "--threads", "2"),
        ExitCode.BAD_INPUT,
        ("threads", "--threads", "embedded DuckDB", "spark has clusters of Spark", "leave it out"),
    ),
    Bad(
        "an option of the embedded engine on another platform",
        ("executor", "--data-plane", "snow", "--data-folder", "new", "--memory-limit", "1GB"),
        ExitCode.BAD_INPUT,
        ("memory_limit", "--memory-limit", "embedded DuckDB", "snow is on platform_snowflake", "leave it out"),
    ),
    Bad(
        "an address of the embedded engine on another platform",
        (
            *("executor", "--data-plane", "snow", "--data-folder", "new"),
            *("--listen", "127.0.0.1:1", "--listen-token-file", "/etc/hostname"),
        ),
        ExitCode.BAD_INPUT,
        ("listen", "--listen", "embedded DuckDB", "leave it out"),
    ),
    Bad(
        "threads of the embedded engine on another platform",
        ("executor", "--data-plane", "snow", "--data-folder", "new", "--threads", "2"),
        ExitCode.BAD_INPUT,
        ("threads", "--threads", "embedded DuckDB", "leave it out"),
    ),
    Bad("an argument that is missing", ("jobs", "show"), ExitCode.BAD_INPUT, ("job_id",)),
    Bad("an option that is missing", ("worker", "--data-plane"), ExitCode.BAD_INPUT, ("--data-plane",)),
    Bad("an option that there is not", ("--bogus",), ExitCode.BAD_INPUT, ("--bogus",)),
    Bad("a number that is none", ("jobs", "list", "--per-page", "all"), ExitCode.BAD_INPUT, ("--per-page", "integer")),
    Bad("a command that there is not", ("jobs", "abort"), ExitCode.BAD_INPUT, ("abort",)),
    Bad(
        "an address without a token",
        ("executor", "--data-plane", "local", "--data-folder", "new", "--listen", "127.0.0.1:0"),
        ExitCode.BAD_INPUT,
        ("executor", "listen"),
    ),
    Bad(
        "a memory limit in no unit",
        ("executor", "--data-plane", "local", "--data-folder", "new", "--memory-limit", "lots"),
        ExitCode.BAD_INPUT,
        ("memory_limit", "512MB", "'lots'"),
    ),
    Bad(
        "a database of another kind",
        ("tokens", "list", "--database-url", "mysql://root@host/name"),
        ExitCode.BAD_INPUT,
        ("database_url", "sqlite:///", "postgresql://"),
    ),
    Bad(
        "a database that is not there",
        ("tokens", "list", "--database-url", "postgresql://nobody@127.0.0.1:1/nothing"),
        ExitCode.UNAVAILABLE,
        ("postgresql://nobody@127.0.0.1:1/nothing", "away"),
    ),
    Bad(
        "a database in a folder that is not there",
        ("tokens", "list", "--database-url", "sqlite:///nowhere/x.db"),
        ExitCode.BAD_INPUT,
        ("database_url", "the folder nowhere does not exist", "create it"),
    ),
    Bad(
        "a folder as a database",
        ("tokens", "list", "--database-url", "sqlite:////dev"),
        ExitCode.BAD_INPUT,
        ("database_url", "/dev is a folder"),
    ),
    Bad(
        "a port that is no number",
        ("tokens", "list", "--database-url", "postgresql://nobody@127.0.0.1:abc/nothing"),
        ExitCode.BAD_INPUT,
        ("database_url", "port", "65535"),
    ),
    Bad(
        "a port that nobody has",
        ("tokens", "list", "--database-url", "postgresql://nobody@127.0.0.1:65536/nothing"),
        ExitCode.BAD_INPUT,
        ("database_url", "port", "65535", "65536"),
    ),
    Bad(
        "a connection option that there is not",
        ("tokens", "list", "--database-url", "postgresql://nobody@127.0.0.1/nothing?colour=red"),
        ExitCode.BAD_INPUT,
        ("database_url", "colour"),
    ),
    Bad(
        "no slots",
        ("executor", "--data-plane", "local", "--data-folder", "new", "--slots", "0"),
        ExitCode.BAD_INPUT,
        ("--slots", "executor.slots", "1"),
    ),
    Bad(
        "a settings file that is a folder",
        ("--config", "/dev", "planes", "list"),
        ExitCode.BAD_INPUT,
        ("/dev is a folder", "TOML"),
    ),
    Bad(
        "a settings file that is not there",
        ("--config", "nowhere.toml", "planes", "list"),
        ExitCode.BAD_INPUT,
        ("nowhere.toml",),
    ),
]


class Inhabited(NamedTuple):
    """A site with a plane and two jobs that no test may change; one of them delivers, which cannot be cancelled."""

    site: Site
    delivery: UUID

    def run(self, *arguments: str) -> CompletedProcess[str]:
        """A command, given the delivery's id where it is named."""
        return self.site.run(*(argument.replace("{delivery}", str(self.delivery)) for argument in arguments))


@pytest.fixture(scope="module")
def inhabited(databases: Databases) -> Iterator[Inhabited]:
    with databases.lend_sqlite() as url, site_of(url) as site:
        plane = site.plane()
        site.intake.create_plane(NewPlane("snow", Platform.SNOWFLAKE))
        site.intake.create_plane(NewPlane("spark", Platform.NARRATIVE, execution_clusters=[ExecutionCluster.SHARED]))
        site.intake.submit(NewJob(plane, JobType.SAMPLE, {"dataset_id": 1}, idempotency_key="taken"), PERSON)
        delivery = NewJob(plane, JobType.DELIVER_DATA, {"dataset_id": 1})
        yield Inhabited(site, site.intake.submit(delivery, PERSON).job_id)


def content(url: str) -> list[str]:
    """Every row and every definition in a SQLite database, but for the tokens, which remember when they were used."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return [row for row in connection.iterdump() if not row.startswith('INSERT INTO "tokens"')]


def assert_refused(refused: CompletedProcess[str], exits: ExitCode, *mentions: str) -> None:
    """One sentence on stderr, that mentions these; nothing on stdout; the exit code."""
    assert (refused.returncode, refused.stdout) == (exits, ""), refused.stderr
    (sentence,) = refused.stderr.strip().splitlines()
    assert sentence.startswith("countermand: ")
    assert [text for text in mentions if text not in sentence] == [], sentence
    assert "Traceback" not in sentence


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
def test_what_cannot_be_right_is_refused_in_a_sentence_and_changes_nothing(inhabited: Inhabited, bad: Bad) -> None:
    site = inhabited.site
    assert site.access
    before, files = content(site.url), sorted(site.folder.iterdir())

    refused = inhabited.run(*bad.arguments)

    assert_refused(refused, bad.exits, *bad.mentions)
    assert content(site.url) == before
    assert sorted(site.folder.iterdir()) == files


@pytest.mark.parametrize("arguments", [(), ("jobs",)], ids=["countermand", "countermand jobs"])
def test_without_arguments_a_command_tells_what_it_can_do(sqlite_site: Site, arguments: tuple[str, ...]) -> None:
    told = sqlite_site.run(*arguments)

    assert (told.returncode, told.stderr) == (ExitCode.BAD_INPUT, "")
    assert "Usage: " in told.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("jobs", "show", "-h"), ("--version",)], ids=" ".join)
def test_who_asks_for_help_or_the_version_gets_it(sqlite_site: Site, arguments: tuple[str, ...]) -> None:
    told = sqlite_site.run(*arguments)

    assert (told.returncode, told.stderr) == (ExitCode.OK, "")
    assert "countermand" in told.stdout


def test_an_interrupt_ends_a_command_that_waits_with_130(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    sqlite_site.executor(plane)
    (job_id,) = sqlite_site.submit_running(plane)
    waiting = sqlite_site.start("wait", "workers", "jobs", "request-cancellation", str(job_id), "--wait")
    until(lambda: str(job_id) in waiting.says(), what="that it waits")

    waiting.signal(signal.SIGINT)

    assert waiting.process.wait(60) == 130
    *_, last = waiting.says().splitlines()
    assert last.startswith(f"countermand: {job_id} is not cancelled yet; the request stands")
    assert "Traceback" not in waiting.says()
    assert sqlite_site.intake.job(job_id).state is JobState.PENDING_CANCELLATION


# --- databases that are not ours to use ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("tokens", "list"), ("db", "upgrade"), ("worker",)], ids=" ".join)
def test_a_file_that_is_no_database_is_named_and_left_as_it_is(sqlite_site: Site, arguments: tuple[str, ...]) -> None:
    file = sqlite_site.folder / "notes.db"
    file.write_text("garbage\n" * 500)

    refused = sqlite_site.run(*arguments, "--database-url", f"sqlite:///{file}")

    assert_refused(refused, ExitCode.BAD_INPUT, "database_url", str(file), "not a SQLite database")
    assert file.read_text() == "garbage\n" * 500


def test_a_database_with_somebody_elses_jobs_is_left_as_it_is(unmigrated_url: str) -> None:
    engine = open_engine(unmigrated_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE jobs (title text)")

    with site_of(unmigrated_url) as site:
        refused = site.run("db", "upgrade")

    assert_refused(refused, ExitCode.CONFLICT, "already has a table jobs that is not ours", "a database of its own")
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["jobs"]
    engine.dispose()


def test_the_default_database_is_called_so_where_it_is_not_there(sqlite_site: Site) -> None:
    refused = sqlite_site.run("tokens", "list", COUNTERMAND_DATABASE_URL="")

    assert_refused(refused, ExitCode.NOT_MIGRATED, "countermand.db", "the default", "set COUNTERMAND_DATABASE_URL")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """A server that asks the role ``keeper`` for its password, and does not know who ``nobody`` is."""
    with Postgres.start() as server:
        server.execute("CREATE ROLE keeper LOGIN PASSWORD 'right'", "CREATE ROLE reader LOGIN", "CREATE ROLE leaver")
        rules = ("local all keeper scram-sha-256", "local all excluded reject", "local all all trust")
        (server.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        server.execute("SELECT pg_reload_conf()")
        upgrade(server.url())
        yield server


@pytest.mark.parametrize(
    ("database", "login", "mentions"),
    [
        ("postgres", "keeper:wrong", ("keeper:***@", "password authentication failed", "correct the role or its")),
        ("postgres", "keeper", ("keeper@", "no password supplied", "PGPASSWORD")),
        ("postgres", "excluded", ("excluded@", "pg_hba.conf", "let the role in")),
        ("postgres", "nobody", ("nobody@", 'role "nobody" does not exist', "create it")),
        ("postgres", "leaver", ("leaver@", 'role "leaver" is not permitted', "LOGIN")),
        ("nothing", "reader", ("reader@", 'database "nothing" does not exist', "create it")),
    ],
)
def test_a_login_that_cannot_succeed_is_not_called_an_absence(
    guarded: Postgres, database: str, login: str, mentions: tuple[str, ...]
) -> None:
    url = guarded.url(database).replace("postgres@", f"{login}@")
    with site_of(url) as site:
        for arguments in (("tokens", "list"), ("db", "upgrade")):
            refused = site.run(*arguments)

            assert_refused(refused, ExitCode.BAD_INPUT, "database_url: postgresql://", *mentions)
            assert "wrong" not in refused.stderr


def test_a_role_that_may_nothing_is_named_with_the_remedy(guarded: Postgres) -> None:
    with site_of(guarded.url().replace("postgres@", "reader@")) as site:
        for arguments in (("tokens", "list"), ("db", "upgrade"), ("worker",)):
            refused = site.run(*arguments)

            assert_refused(refused, ExitCode.REFUSED, "the role reader", "lacks", "permission denied", "grant it")


def test_an_executor_whose_role_may_only_read_keeps_its_folder(guarded: Postgres) -> None:
    guarded.execute("CREATE ROLE onlooker LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO onlooker")
    with site_of(guarded.url()) as site, site_of(guarded.url().replace("postgres@", "onlooker@")) as other:
        plane, folder = site.plane(), site.folder / "data"

        refused = other.run("executor", "--data-plane", str(plane), "--data-folder", str(folder))

        assert_refused(refused, ExitCode.REFUSED, "the role onlooker", "executors", "grant it")
        site.executor(plane)


# --- around the commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokens", "list"),
        ("worker",),
        ("executor", "--data-plane", "x", "--data-folder", "x"),
    ],
    ids=" ".join,
)
def test_a_database_that_is_not_migrated_is_named_with_the_remedy(
    unmigrated_url: str, arguments: tuple[str, ...]
) -> None:
    with site_of(unmigrated_url) as site:
        refused = site.run(*arguments)

        assert_refused(refused, ExitCode.NOT_MIGRATED, "not migrated", "countermand db upgrade")
        assert list(site.folder.iterdir()) == []
        assert not Path(unmigrated_url.removeprefix("sqlite:///")).exists()


def test_a_typo_in_the_settings_file_is_named_with_what_was_meant(sqlite_site: Site) -> None:
    file = sqlite_site.folder / "countermand.toml"
    file.write_text("[worker]\nbatch_sise = 5\n")

    refused = sqlite_site.run("--config", str(file), "worker")

    assert_refused(refused, ExitCode.BAD_INPUT, str(file), "worker.batch_sise", "did you mean worker.batch_size?")


def test_each_of_several_wrong_settings_has_a_line_of_its_own(sqlite_site: Site) -> None:
    file = sqlite_site.folder / "countermand.toml"
    file.write_text('log_level = "loud"\n\n[worker]\nbatch_sise = 5\n')

    refused = sqlite_site.run("--config", str(file), "tokens", "list")

    assert (refused.returncode, refused.stdout) == (ExitCode.BAD_INPUT, "")
    assert refused.stderr.splitlines() == [
        f"countermand: {file}:1: log_level should be 'debug', 'info', 'warning' or 'error', not 'loud'.",
        f"countermand: {file}:4: worker.batch_sise is not a setting; did you mean worker.batch_size?",
    ]


def test_a_typo_in_the_environment_is_named_with_what_was_meant(sqlite_site: Site) -> None:
    refused = sqlite_site.run("tokens", "list", COUNTERMAND_WORKER__BATCH_SISE="5")

    assert_refused(refused, ExitCode.BAD_INPUT, "COUNTERMAND_WORKER__BATCH_SISE", "COUNTERMAND_WORKER__BATCH_SIZE")


@pytest.mark.parametrize("name", ["config", "adapters"])
def test_a_foreign_package_of_our_name_is_named(sqlite_site: Site, name: str) -> None:
    foreign = sqlite_site.folder / "foreign"
    foreign.mkdir()
    (foreign / f"{name}.py").write_text("raise SystemExit('the foreign package was imported')")

    refused = sqlite_site.run("tokens", "list", PYTHONPATH=f"{foreign}:{ROOT}")

    assert_refused(refused, ExitCode.REFUSED, repr(name), str(foreign), "shadows")


def test_a_data_folder_that_another_executor_holds_is_refused(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    sqlite_site.executor(plane)
    before = registered(sqlite_site)

    refused = sqlite_site.run("executor", "--data-plane", str(plane), "--data-folder", "data")

    assert_refused(refused, ExitCode.REFUSED, "data_folder", "held by another executor")
    assert registered(sqlite_site) == before


def test_a_folder_that_the_store_refuses_does_not_overtake_its_original_however_often_it_is_started(
    sqlite_site: Site,
) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    original = Executor(first_start(site.folder / "data"), 2, "unix:/elsewhere.sock")
    Dispatch(site.store).register(original, data_plane_id=plane)
    before = registered(site)

    for _ in range(2):
        refused = site.run("executor", "--data-plane", str(plane), "--data-folder", "data")
        assert_refused(refused, ExitCode.REFUSED, "data_folder", "copied or restored")

    assert registered(site) == before


def first_start(path: Path) -> str:
    """The executor that a new folder is."""
    folder = Folder.open(path)
    folder.close()
    return folder.executor_id


def registered(site: Site) -> list[str]:
    """The executors that the store knows, each with its incarnation."""
    return [row for row in content(site.url) if row.startswith('INSERT INTO "executors"')]


# --- what only the executor can see --------------------------------------------------------------------------------

BAD_SQL = {
    "no SQL": "SELEKT 1 FRUM",
    "two statements": "SELECT 1; SELECT 2",
    "a change": "DROP TABLE narrative.datasets.ds_1",
    "a file": "SELECT * FROM read_csv('/etc/passwd')",
    "a foreign table": "SELECT * FROM narrative.bookkeeping.publications",
    "nothing": "-- nothing",
}


def test_sql_that_cannot_be_right_fails_its_job_alone_and_writes_nothing(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    job_ids = {name: site.submit(plane, sql) for name, sql in BAD_SQL.items()}
    good = site.submit(plane, QUICK)

    executor = site.executor(plane)

    for name, job_id in job_ids.items():
        job = site.ended(job_id)
        assert job.state is JobState.FAILED, name
        assert job.failures[0].message.startswith("compiled_sql: "), name
    assert site.ended(good).state is JobState.COMPLETED
    assert executor.terminate() == 0
    assert len(site.rows(OUTPUTS)) == 1


def test_a_result_of_the_wrong_shape_fails_its_job_and_publishes_nothing(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    site.load("data")
    job_id = site.submit(plane, QUICK)

    executor = site.start("data", "tests.acceptance.misshaping_executor", str(plane), str(site.folder / "data"))

    job = site.ended(job_id)
    assert (job.state, job.result, job.committed_at) == (JobState.FAILED, None, None)
    assert "result: " in job.failures[0].message
    assert "dataset_id, snapshot_id, recalculation_id" in job.failures[0].message
    assert executor.terminate() == 0
    assert site.rows("SELECT view_name FROM duckdb_views() WHERE view_name = 'ds_6404'") == []
