"""What an answer says when something is wrong, and that the log says it, too."""

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from control_plane.api.app import MOST_BYTES, build_api
from control_plane.api.desk import Desk
from control_plane.api.problems import OF_THE_FRAMEWORK, STATUSES
from control_plane.policy import Policy
from control_plane.store import Store
from tests.databases import Databases
from tests.integration.api import Api, Bearer, called, describe, job_path, served, soon, submission
from tests.integration.given import Given, put_job

pytestmark = pytest.mark.anyio

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "an array": b"[]",
    "null": b"null",
    "a string": b'"job"',
    "two documents": b"{}{}",
    "nested deeply": b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested deeply, and cut off": b'{"input": ' + b"[" * 100_000,
    "a plane that is no uuid": b'{"data_plane_id": "1; DROP TABLE jobs", "type": "costs", "input": {}}',
}
FIELDS = ["type", "title", "status", "detail", "instance", "log_id"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The answer's problem, which has all six fields and the media type, and agrees with the status line."""
    problem: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert list(problem) == FIELDS
    assert problem["status"] == answer.status_code
    assert problem["type"].startswith("/problems/")
    assert UUID(problem["log_id"]).version
    return problem


async def test_a_problem_has_six_fields_and_its_log_id_stands_in_the_log(api: Api) -> None:
    job_id = uuid4()

    with capture_logs() as logs:
        answer = await api.bearer().get(job_path(job_id))

    problem = problem_of(answer)
    assert problem | {"log_id": "…"} == {
        "type": "/problems/not-found",
        "title": "Not Found",
        "status": 404,
        "detail": f"job_id: there is no job {job_id}",
        "instance": f"/jobs/{job_id}",
        "log_id": "…",
    }
    [line] = [line for line in logs if str(line.get("log_id")) == problem["log_id"]]
    assert (line["event"], line["status"], line["path"]) == ("request_refused", 404, f"/jobs/{job_id}")


#: What follows a submission's plane and type.
MALFORMED_INPUTS: dict[str, bytes] = {
    "nested deeply": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "half a character": b'{"a": "\\ud800"}',
    "NaN": b'{"a": NaN}',
    "a list": b"[]",
    "null": b"null",
    "an object, and an unknown field beside it": b'{}, "colour": "red"',
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_body_is_a_problem_of_its_sender(api: Api, what: str) -> None:
    answer = await api.bearer().post("/jobs", content=MALFORMED[what], headers={"Content-Type": "application/json"})

    assert problem_of(answer)["type"] == "/problems/bad-input"
    assert answer.status_code == 400


@pytest.mark.parametrize("what", MALFORMED_INPUTS)
async def test_a_malformed_input_is_refused_and_makes_no_job(api: Api, what: str) -> None:
    plane = str(api.given.plane.data_plane_id).encode()
    body = b'{"data_plane_id": "' + plane + b'", "type": "costs", "input": ' + MALFORMED_INPUTS[what] + b"}"

    answer = await api.bearer().post("/jobs", content=body, headers={"Content-Type": "application/json"})

    assert problem_of(answer)["type"] == "/problems/bad-input"
    assert (await api.bearer().get("/jobs")).json()["total_records"] == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": "dance"}, "nql-forecast"),
        ({"execution_cluster": "vast"}, "dedicated"),
        ({"input": {"nql": "SELECT 1", "dataset_id": 7}}, "compiled_sql"),
        ({"colour": "red"}, "colour"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * 256}, "idempotency_key"),
        ({"data_plane_id": None}, "data_plane_id"),
    ],
    ids=str,
)
async def test_a_refusal_names_the_field_and_what_is_allowed(api: Api, fields: dict[str, Any], says: str) -> None:
    answer = await api.bearer().post("/jobs", submission(api.given.plane, **fields))

    assert answer.status_code == 400
    assert says in problem_of(answer)["detail"]


@pytest.mark.parametrize("known", [True, False], ids=["length known", "chunked"])
async def test_a_body_that_is_too_large_is_refused(api: Api, known: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MOST_BYTES // 100_000 + 1):
            yield b" " * 100_000

    content = b" " * (MOST_BYTES + 1) if known else chunks()

    answer = await api.bearer().call("POST", "/jobs", content=content, headers={"Content-Type": "application/json"})

    assert problem_of(answer)["status"] == 413


async def test_a_problem_has_the_same_type_and_title_whatever_python_calls_its_status(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "phrase", "Content Too Large")  # as Python 3.13 does

    answer = await api.bearer().call("POST", "/jobs", content=b" " * (MOST_BYTES + 1))

    problem = problem_of(answer)
    assert (problem["type"], problem["title"]) == ("/problems/request-entity-too-large", "Request Entity Too Large")


async def test_a_sql_text_of_a_million_characters_is_taken(api: Api) -> None:
    sql = "é" * 999_999
    body = submission(api.given.plane, input={"nql": "SELECT 1", "compiled_sql": sql, "dataset_id": 7})

    answer = await api.bearer().post("/jobs", body)

    assert (answer.status_code, answer.json()["input"]["compiled_sql"]) == (201, sql)


async def test_who_may_not_enter_is_told_so_before_the_body_is_read(api: Api) -> None:
    answer = await Bearer(api.http).call("POST", "/jobs", content=b" " * (MOST_BYTES + 1))

    assert problem_of(answer)["status"] == 401


@pytest.mark.parametrize("path", ["/", "/nothing", "/jobs/not-a-uuid", "/data-planes//heartbeat", "/../etc/passwd"])
async def test_a_path_that_is_not_there_is_a_problem(api: Api, path: str) -> None:
    answer = await api.bearer().get(path)

    assert problem_of(answer)["status"] == 404


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/jobs"), ("PUT", "/data-planes"), ("GET", "/jobs/{}/cancel")])
async def test_a_method_that_a_path_does_not_take_is_a_problem_that_says_what_it_takes(
    api: Api, method: str, path: str
) -> None:
    answer = await api.bearer().call(method, path.format(uuid4()))

    assert problem_of(answer)["status"] == 405
    assert "allow" in answer.headers


async def test_a_slow_sender_gets_408_when_its_time_is_up(given: Given) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with served(given, request_seconds=0.2) as api:
        with capture_logs() as logs:
            answer = await soon(api.bearer().call("POST", "/jobs", content=never()))

    problem = problem_of(answer)
    assert (problem["status"], problem["instance"]) == (408, "/jobs")
    assert problem["log_id"] in {str(line["log_id"]) for line in logs if line["event"] == "request_timed_out"}


async def test_a_bug_of_ours_is_logged_with_its_traceback_and_told_to_nobody(api: Api) -> None:
    """A row that nobody of ours can have written, and that nobody can read."""
    broken = put_job(api.given, "pending", committed=False, request_source={"type": "martian", "secret": "s3cr3t"})

    with capture_logs() as logs:
        answer = await api.bearer().get(job_path(broken.job_id))

    problem = problem_of(answer)
    assert (problem["status"], problem["type"]) == (500, "/problems/unexpected")
    assert problem["detail"] == "something went wrong here; quote the log_id to whoever runs the service"
    [line] = [line for line in logs if str(line.get("log_id")) == problem["log_id"]]
    assert (line["event"], line["log_level"]) == ("request_failed", "error")
    assert isinstance(line["exc_info"], msgspec.ValidationError)
    assert line["exc_info"].__traceback__ is not None


# --- health ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_url(unmigrated_url: str) -> str:
    """A database that is there, and has no tables."""
    if unmigrated_url.startswith("sqlite"):
        Path(unmigrated_url.removeprefix("sqlite:///")).touch()
    return unmigrated_url


async def test_a_database_that_is_not_migrated_is_not_ready_but_the_server_lives(empty_url: str) -> None:
    ready, live = await _health(empty_url)

    assert (ready.status_code, problem_of(ready)["type"]) == (503, "/problems/not-migrated")
    assert "countermand db upgrade" in ready.json()["detail"]
    assert (live.status_code, live.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("away", ["its server", "itself"])
async def test_a_database_that_is_away_is_not_ready_and_where_it_is_is_not_told(
    databases: Databases, away: str
) -> None:
    there = "127.0.0.1:1" if away == "its server" else None
    url = f"postgresql://somebody:s3cr3t@{there}/nowhere" if there else databases.postgres().url("nowhere")

    with capture_logs() as logs:
        ready, live = await _health(url)

    problem = problem_of(ready)
    assert (ready.status_code, problem["type"]) == (503, "/problems/store-unavailable")
    assert not {word for word in ("nowhere", "127.0.0.1", "somebody", "s3cr3t") if word in ready.text}
    [line] = [line for line in logs if str(line.get("log_id")) == problem["log_id"]]
    assert "nowhere" in line["detail"]
    assert "s3cr3t" not in str(logs)
    assert live.status_code == 200


async def _health(url: str) -> tuple[httpx.Response, httpx.Response]:
    store = Store(url)
    desk = Desk(store, Policy())
    async with called(build_api(desk)) as http:
        answers = await http.get("/health/ready"), await http.get("/health/live")
    desk.close()
    store.close()
    return answers


# --- the page --------------------------------------------------------------------------------------------------------


def test_every_type_of_problem_stands_on_the_page_with_its_status() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
    rows = re.findall(r"^\| ((?:`/problems/[a-z-]+`(?:, )?)+) \| (\d{3}) \|", page, flags=re.MULTILINE)
    told = {(kind, int(status)) for kinds, status in rows for kind in re.findall(r"/problems/([a-z-]+)", kinds)}

    ours = {(kind.problem_type, status) for kind, status in STATUSES}
    frameworks = {(kind, status) for status, kind in OF_THE_FRAMEWORK.items()}
    assert told == ours | frameworks | {("unexpected", 500), ("row-locked", 503)}


# --- the description -------------------------------------------------------------------------------------------------


def test_every_operation_documents_its_problems_and_has_a_summary() -> None:
    description = describe()

    for path, methods in description["paths"].items():
        for method, details in methods.items():
            assert details["summary"], (method, path)
            assert details["description"], (method, path)
            for status, response in details["responses"].items():
                media = list(response.get("content", {}))
                assert media == [_media_of(path, status)], (path, status)


def _media_of(path: str, status: str) -> str:
    if status >= "300":
        return "application/problem+json"
    return "text/plain" if path == "/metrics" else "application/json"
