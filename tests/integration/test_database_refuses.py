"""What the database refuses from everybody: from psql and from the sqlite3 shell, with nothing of ours in between.

Each statement is one that would land but for the one thing that is wrong with it; the legal moves are made as well, so
that a statement refused for its spelling would be noticed.
"""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import make_url

from control_plane.store import Store
from tests.databases import Databases
from tests.integration.given import EXECUTOR, Clock, Given, Put, put_job

NO_SUCH_MOVE = "no such move"
APPEND_ONLY = "the audit is append-only"
MOMENT = "2026-03-01 12:00:05.000"
RECEIPT = '{"outcome": "stopped", "seen_at": "2026-03-01T12:00:05Z", "worker": "w1"}'
STATES = ("pending", "running", "pending_cancellation", "cancelled", "completed", "failed")
TERMINAL = ("cancelled", "completed", "failed")

#: Every row that there can be: state, committed.
ROWS = [
    ("pending", False),
    ("running", False),
    ("running", True),
    ("pending_cancellation", False),
    ("pending_cancellation", True),
    ("cancelled", False),
    ("completed", True),
    ("failed", False),
]
#: state, committed, next state
LEGAL = {
    ("pending", False, "running"),
    ("pending", False, "pending_cancellation"),
    ("running", False, "pending_cancellation"),
    ("running", True, "pending_cancellation"),
    ("running", True, "completed"),
    ("running", False, "failed"),
    ("pending_cancellation", False, "cancelled"),
    ("pending_cancellation", True, "completed"),
}
EDGES = [(state, committed, target) for state, committed in ROWS for target in (*STATES, "asleep") if target != state]
#: What belongs to how a job ended, and which job it is, with another value for each.
FINAL = {
    "receipt": '{"outcome": "attested"}',
    "result": '{"dataset_id": 1}',
    "committed_at": "2026-03-02 00:00:00.000",
    "ended_at": "2026-03-02 00:00:00.000",
    "failures": '[{"message": "another"}]',
    "publication_number": "99",
    "tag": "another",
}


#: For the back doors that SQLite has and Postgres has not.
SQLITE_ALONE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


class Said(NamedTuple):
    """What a shell answered."""

    accepted: bool
    text: str


Shell = Callable[[str], Said]


def psql(databases: Databases, name: str) -> Shell:
    server = databases.postgres()
    command = [str(server.binaries / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--command"]
    environment = os.environ | server.environment(name)
    return lambda statement: answer_of([*command, statement], environment)


def sqlite_shell(file: Path) -> Shell:
    """The sqlite3 shell where there is one that knows our schema's ``->>``, else Python's own."""
    program = shutil.which("sqlite3")
    if program is None or version_of(program) < (3, 38):
        return lambda statement: answer_of_module(file, statement)
    return lambda statement: answer_of([program, "-batch", "-bail", "-init", os.devnull, str(file), statement], None)


def version_of(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
    return tuple(map(int, said.split()[0].split(".")[:2]))


def answer_of(command: list[str], environment: dict[str, str] | None) -> Said:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, env=environment)
    return Said(done.returncode == 0, done.stdout + done.stderr)


def answer_of_module(file: Path, statement: str) -> Said:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        try:
            connection.executescript(statement)
        except sqlite3.Error as error:
            return Said(accepted=False, text=str(error))
    return Said(accepted=True, text="")


@pytest.fixture(scope="module")
def given(url: str) -> Iterator[Given]:
    """One store for the module: each test has a job on a plane of its own."""
    clock = Clock()
    store = Store(url, clock=clock)
    yield Given(store, clock)
    store.close()


@pytest.fixture(scope="module")
def shell(url: str, databases: Databases) -> Shell:
    database = make_url(url).database or ""
    return sqlite_shell(Path(database)) if url.startswith("sqlite") else psql(databases, database)


@pytest.fixture
def on_sqlite(given: Given) -> bool:
    return given.store.engine.dialect.name == "sqlite"


def move(job_id: UUID, target: str, **fields: str) -> str:
    """An UPDATE to the state *target* with all that such a row needs."""
    ended = f"'{MOMENT}'" if target in TERMINAL else "NULL"
    receipt = f"'{RECEIPT}'" if target == "cancelled" else "NULL"
    columns = {"state": f"'{target}'", "ended_at": ended, "receipt": receipt} | fields
    return change(job_id, **columns)


def change(of_job: UUID, **fields: str) -> str:
    values = ", ".join(f"{name} = {value}" for name, value in fields.items())
    return f"UPDATE jobs SET {values} WHERE job_id = '{of_job}'"


def birth(data_plane_id: UUID, verb: str = "INSERT", **fields: str) -> str:
    columns = {
        "job_id": f"'{uuid4()}'",
        "data_plane_id": f"'{data_plane_id}'",
        "state": "'pending'",
        "type": "'nql-forecast'",
        "request_source": "'{}'",
        "input": "'{}'",
        "tag": "'a tag'",
        "created_at": f"'{MOMENT}'",
        "updated_at": f"'{MOMENT}'",
    } | fields
    return f"{verb} INTO jobs ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"


def assert_refused(given: Given, shell: Shell, job_id: UUID, statement: str, because: str) -> None:
    before = given.everything(job_id)

    said = shell(statement)

    assert not said.accepted, statement
    assert re.search(because, said.text, re.IGNORECASE), said.text
    assert given.everything(job_id) == before


@pytest.mark.parametrize(("state", "committed", "target"), EDGES)
def test_a_job_moves_along_the_declared_edges_alone(
    given: Given, shell: Shell, state: str, committed: bool, target: str
) -> None:
    put = put_job(given, state, committed=committed)

    said = shell(move(put.job_id, target))

    legal = (state, committed, target) in LEGAL
    assert said.accepted == legal, said.text
    assert legal or NO_SUCH_MOVE in said.text
    assert given.rows_of("jobs", put.job_id)[0]["state"] == (target if legal else state)


@pytest.mark.parametrize("column", FINAL)
@pytest.mark.parametrize(("state", "committed"), [row for row in ROWS if row[0] in TERMINAL])
def test_how_a_job_ended_is_final(given: Given, shell: Shell, state: str, committed: bool, column: str) -> None:
    put = put_job(given, state, committed=committed)

    assert_refused(given, shell, put.job_id, change(put.job_id, **{column: f"'{FINAL[column]}'"}), NO_SUCH_MOVE)


@pytest.mark.parametrize("target", STATES)
@pytest.mark.parametrize(("state", "committed"), [row for row in ROWS if row[0] in TERMINAL])
def test_an_ended_job_cannot_be_given_another_end_in_one_go(
    given: Given, shell: Shell, state: str, committed: bool, target: str
) -> None:
    put = put_job(given, state, committed=committed)
    commit = {"committed_at": f"'{MOMENT}'", "result": "'{}'"} if target == "completed" else {}
    clear = {"committed_at": "NULL", "result": "NULL"} if target in ("cancelled", "failed") else {}
    statement = move(put.job_id, target, ended_at="'2026-03-02 00:00:00.000'", **commit, **clear)

    assert_refused(given, shell, put.job_id, statement, NO_SUCH_MOVE)


@pytest.mark.parametrize(
    "receipt",
    [
        "{}",
        "null",
        "[]",
        '"stopped"',
        '{"outcome": null}',
        '{"outcome": ""}',
        '{"outcome": "perhaps"}',
        '{"outcome": ["stopped"]}',
        '{"Outcome": "stopped"}',
    ],
)
def test_cancelled_is_refused_without_a_receipt_that_names_a_known_outcome(
    given: Given, shell: Shell, receipt: str
) -> None:
    put = put_job(given, "pending_cancellation", committed=False)

    assert_refused(
        given, shell, put.job_id, move(put.job_id, "cancelled", receipt=f"'{receipt}'"), "jobs_receipt_when_cancelled"
    )


@pytest.mark.parametrize(
    "receipt",
    [
        '{"outcome": "stopped"}',
        '{"outcome": "stopped", "seen_at": "2026-03-01T12:00:05Z"}',
        '{"outcome": "stopped", "worker": "w1"}',
        '{"outcome": "stopped", "seen_at": null, "worker": "w1"}',
        '{"outcome": "stopped", "seen_at": "2026-03-01T12:00:05Z", "worker": null}',
    ],
)
def test_cancelled_is_refused_with_a_receipt_that_does_not_say_who_saw_it_and_when(
    given: Given, shell: Shell, receipt: str
) -> None:
    put = put_job(given, "pending_cancellation", committed=False)

    assert_refused(
        given, shell, put.job_id, move(put.job_id, "cancelled", receipt=f"'{receipt}'"), "jobs_receipt_when_cancelled"
    )


def test_cancelled_is_refused_without_a_receipt(given: Given, shell: Shell) -> None:
    put = put_job(given, "pending_cancellation", committed=False)

    assert_refused(
        given, shell, put.job_id, move(put.job_id, "cancelled", receipt="NULL"), "jobs_receipt_when_cancelled"
    )


@pytest.mark.parametrize("outcome", ["stopped", "finished_unpublished", "never_started", "attested"])
def test_each_known_outcome_is_taken(given: Given, shell: Shell, outcome: str) -> None:
    put = put_job(given, "pending_cancellation", committed=False)

    said = shell(move(put.job_id, "cancelled", receipt=f"'{RECEIPT.replace('stopped', outcome)}'"))

    assert said.accepted, said.text


@pytest.mark.parametrize("state", ["pending", "running", "pending_cancellation"])
def test_a_receipt_is_refused_before_the_job_is_cancelled(given: Given, shell: Shell, state: str) -> None:
    put = put_job(given, state, committed=False)

    assert_refused(given, shell, put.job_id, change(put.job_id, receipt=f"'{RECEIPT}'"), "jobs_receipt_when_cancelled")


def test_cancelled_is_refused_after_the_commit_point(given: Given, shell: Shell) -> None:
    put = put_job(given, "pending_cancellation", committed=True)

    assert_refused(given, shell, put.job_id, move(put.job_id, "cancelled"), NO_SUCH_MOVE)


def test_cancelled_is_refused_for_one_that_takes_the_commit_back(given: Given, shell: Shell) -> None:
    put = put_job(given, "pending_cancellation", committed=True)
    statement = move(put.job_id, "cancelled", committed_at="NULL", result="NULL")

    assert_refused(given, shell, put.job_id, statement, NO_SUCH_MOVE)


@pytest.mark.parametrize("state", ["running", "pending_cancellation"])
def test_completed_is_refused_before_the_commit_point(given: Given, shell: Shell, state: str) -> None:
    put = put_job(given, state, committed=False)

    assert_refused(given, shell, put.job_id, move(put.job_id, "completed"), NO_SUCH_MOVE)


def test_completed_is_refused_for_a_cancellation_that_commits_in_the_same_breath(given: Given, shell: Shell) -> None:
    put = put_job(given, "pending_cancellation", committed=False)
    statement = move(put.job_id, "completed", committed_at=f"'{MOMENT}'", result="'{}'")

    assert_refused(given, shell, put.job_id, statement, NO_SUCH_MOVE)


@pytest.mark.parametrize("state", ["running", "pending_cancellation"])
@pytest.mark.parametrize("committed_at", ["NULL", "'2026-03-02 00:00:00.000'"])
def test_the_commit_point_is_neither_moved_nor_cleared(
    given: Given, shell: Shell, state: str, committed_at: str
) -> None:
    put = put_job(given, state, committed=True)
    result = {"result": "NULL"} if committed_at == "NULL" else {}

    assert_refused(given, shell, put.job_id, change(put.job_id, committed_at=committed_at, **result), NO_SUCH_MOVE)


@pytest.mark.parametrize("state", ["pending", "pending_cancellation", "cancelled", "failed"])
def test_only_a_running_job_commits(given: Given, shell: Shell, state: str) -> None:
    put = put_job(given, state, committed=False)
    statement = change(put.job_id, committed_at=f"'{MOMENT}'", result="'{}'")

    assert_refused(given, shell, put.job_id, statement, NO_SUCH_MOVE)


@pytest.mark.parametrize(
    ("kind", "state"),
    [("materialize-view", "running"), ("external", "running"), ("external", "pending_cancellation")],
)
def test_a_running_job_commits_and_a_tracked_one_also_while_it_is_cancelled(
    given: Given, shell: Shell, kind: str, state: str
) -> None:
    put = put_job(given, state, committed=False, type=kind)

    said = shell(change(put.job_id, committed_at=f"'{MOMENT}'", result="'{}'"))

    assert said.accepted, said.text


def test_a_commit_without_a_result_is_refused(given: Given, shell: Shell) -> None:
    put = put_job(given, "running", committed=False)

    assert_refused(
        given, shell, put.job_id, change(put.job_id, committed_at=f"'{MOMENT}'"), "jobs_result_when_committed"
    )


@pytest.mark.parametrize("state", ["running", "pending_cancellation", "cancelled", "completed", "failed"])
def test_a_job_is_born_pending_and_nothing_else(given: Given, shell: Shell, state: str) -> None:
    job_id = uuid4()
    ended = {"ended_at": f"'{MOMENT}'"} if state in TERMINAL else {}
    commit = {"committed_at": f"'{MOMENT}'", "result": "'{}'"} if state == "completed" else {}
    receipt = {"receipt": f"'{RECEIPT}'"} if state == "cancelled" else {}
    statement = birth(given.plane.data_plane_id, job_id=f"'{job_id}'", state=f"'{state}'", **ended, **commit, **receipt)

    assert_refused(given, shell, job_id, statement, "a job is born pending")


def test_a_pending_job_may_be_born(given: Given, shell: Shell) -> None:
    said = shell(birth(given.plane.data_plane_id))

    assert said.accepted, said.text


def test_a_job_is_not_born_committed(given: Given, shell: Shell) -> None:
    job_id = uuid4()
    statement = birth(given.plane.data_plane_id, job_id=f"'{job_id}'", committed_at=f"'{MOMENT}'", result="'{}'")

    assert_refused(given, shell, job_id, statement, "committed|born|move")


@SQLITE_ALONE
@pytest.mark.parametrize("verb", ["INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
@pytest.mark.parametrize(("state", "committed"), ROWS)
def test_replacing_a_job_is_refused(given: Given, shell: Shell, verb: str, state: str, committed: bool) -> None:
    put = put_job(given, state, committed=committed)
    statement = birth(put.data_plane_id, verb, job_id=f"'{put.job_id}'")

    assert_refused(given, shell, put.job_id, statement, "the row exists")


@SQLITE_ALONE
@pytest.mark.parametrize("state", ["running", "cancelled"])
def test_replacing_a_job_by_way_of_its_idempotency_key_is_refused(given: Given, shell: Shell, state: str) -> None:
    key = str(uuid4())
    put = put_job(given, state, committed=False, idempotency_key=key)
    statement = birth(put.data_plane_id, "INSERT OR REPLACE", idempotency_key=f"'{key}'")

    assert_refused(given, shell, put.job_id, statement, "the row exists")


@pytest.mark.parametrize("column", ["job_id", "idempotency_key"])
def test_one_job_cannot_take_the_place_of_another(given: Given, shell: Shell, on_sqlite: bool, column: str) -> None:
    victim = put_job(given, "cancelled", committed=False, idempotency_key=str(uuid4()))
    other = put_job(given, "pending", committed=False)
    value = given.rows_of("jobs", victim.job_id)[0][column]
    verb = "UPDATE OR REPLACE" if on_sqlite else "UPDATE"
    statement = change(other.job_id, **{column: f"'{value}'"}).replace("UPDATE", verb, 1)

    assert_refused(given, shell, victim.job_id, statement, "unique|no such move")


@pytest.mark.parametrize("state", ["pending", "running", "pending_cancellation"])
def test_a_live_job_cannot_be_deleted(given: Given, shell: Shell, state: str) -> None:
    put = put_job(given, state, committed=False)
    statement = f"DELETE FROM jobs WHERE job_id = '{put.job_id}'"

    assert_refused(given, shell, put.job_id, statement, "removed only when it has ended")


def test_a_job_that_ended_may_be_deleted_where_nothing_tells_of_it(given: Given, shell: Shell) -> None:
    put = put_job(given, "failed", committed=False)

    said = shell(f"DELETE FROM jobs WHERE job_id = '{put.job_id}'")

    assert said.accepted, said.text
    assert given.rows_of("jobs", put.job_id) == []


@pytest.fixture
def told(given: Given) -> Put:
    """A job that the audit tells of, with its move past the submission."""
    plane = given.new_plane()
    claim = given.running(plane=plane)
    return Put(claim.job_id, plane.data_plane_id, claim.epoch, uuid4())


@pytest.mark.parametrize(
    "fields", ["to_state = 'failed'", "actor = '{}'", "reason = 'none'", "moved_at = '2020-01-01 00:00:00.000'"]
)
def test_the_audit_is_not_changed(given: Given, shell: Shell, told: Put, fields: str) -> None:
    statement = f"UPDATE audit SET {fields} WHERE job_id = '{told.job_id}'"

    assert_refused(given, shell, told.job_id, statement, APPEND_ONLY)


def test_the_audit_is_not_removed(given: Given, shell: Shell, told: Put) -> None:
    statement = f"DELETE FROM audit WHERE job_id = '{told.job_id}'"

    assert_refused(given, shell, told.job_id, statement, APPEND_ONLY)


def test_the_audit_is_not_emptied(given: Given, shell: Shell, told: Put, on_sqlite: bool) -> None:
    statement = "DELETE FROM audit" if on_sqlite else "TRUNCATE audit"

    assert_refused(given, shell, told.job_id, statement, APPEND_ONLY)


def test_the_jobs_are_not_emptied_with_all_that_belongs_to_them(
    given: Given, shell: Shell, told: Put, on_sqlite: bool
) -> None:
    statement = "DELETE FROM jobs" if on_sqlite else "TRUNCATE jobs CASCADE"

    assert_refused(given, shell, told.job_id, statement, "removed only when it has ended")


@SQLITE_ALONE
@pytest.mark.parametrize("verb", ["INSERT OR REPLACE", "REPLACE"])
def test_the_audit_is_not_replaced(given: Given, shell: Shell, told: Put, verb: str) -> None:
    first = given.rows_of("audit", told.job_id)[0]
    statement = (
        f"{verb} INTO audit (audit_id, job_id, move, to_state, actor, moved_at) "
        f"VALUES ({first['audit_id']}, '{told.job_id}', 'start', 'running', '{{}}', '{MOMENT}')"
    )

    assert_refused(given, shell, told.job_id, statement, "the row exists")


def test_the_audit_grows(given: Given, shell: Shell, told: Put) -> None:
    before = len(given.rows_of("audit", told.job_id))

    said = shell(
        "INSERT INTO audit (job_id, move, to_state, actor, moved_at) "
        f"VALUES ('{told.job_id}', 'note', 'running', '{{}}', '{MOMENT}')"
    )

    assert said.accepted, said.text
    assert len(given.rows_of("audit", told.job_id)) == before + 1


def test_a_job_that_the_audit_tells_of_was_started_by_its_executor(given: Given, told: Put) -> None:
    assert given.job(told.job_id).executor == EXECUTOR.executor_id
