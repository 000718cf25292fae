"""An adapter that comes with a package of somebody else's: the documented example, installed, found, and at work."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.base import Adapter, RunStatus, StopAnswer
from adapters.narrative.spark_warehouse import Kind, Output, Warehouse
from adapters.registry import BUILT_IN, Surroundings, adapter_factory, adapter_names
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import Rung
from control_plane.work import Publication, Work
from tests.narrative import PLANE, named_work

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugins" / "yarn"

pytestmark = pytest.mark.anyio


class ResourceManager(ThreadingHTTPServer):
    """What YARN's REST API says of applications, and does when it is told to kill one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.apps: dict[str, dict[str, Any]] = {}
        self.kills = True

    def run(self, name: str, state: str = "RUNNING", final: str = "UNDEFINED") -> str:
        app_id = f"application_1700000000000_{len(self.apps) + 1:04d}"
        self.apps[app_id] = {"id": app_id, "name": name, "state": state, "finalStatus": final}
        return app_id

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: ResourceManager

    def do_GET(self) -> None:
        apps = list(self.server.apps.values())
        answers = {"apps": {"apps": {"app": apps} if apps else None}, "info": {"clusterInfo": {"startedOn": 1}}}
        self.answer(answers[self.path.rpartition("/")[2]])

    def do_PUT(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.kills:
            self.server.apps[self.path.split("/")[-2]] |= wanted | {"finalStatus": "KILLED"}
        self.answer(wanted, 202)

    def answer(self, document: object, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its base's name
        pass


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def yarn() -> Iterator[ResourceManager]:
    with ResourceManager() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place beside our own packages into which pip has put the example."""
    place = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(place), str(PLUGIN)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return place


@pytest.fixture
def plugged(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)
    monkeypatch.delitem(sys.modules, "countermand_yarn", raising=False)


@pytest.fixture
async def adapter(plugged: None, yarn: ResourceManager, tmp_path: Path) -> Adapter:
    options = {"url": yarn.url, "warehouse": str(tmp_path)}
    return adapter_factory("spark-yarn")(Surroundings("tests", PLANE, 60.0, options))


async def status_of(adapter: Adapter, work: Work) -> RunStatus:
    [run] = (await adapter.find([work]))[work.job_id].runs
    return run.status


def test_the_example_is_shorter_than_a_hundred_lines() -> None:
    files = [PLUGIN / "pyproject.toml", *PLUGIN.rglob("*.py")]

    assert sum(len(file.read_text().splitlines()) for file in files) < 100


@pytest.mark.usefixtures("plugged")
def test_an_installed_adapter_is_found_beside_those_that_are_built_in() -> None:
    assert adapter_names() == sorted([*BUILT_IN, "spark-yarn"])


def test_an_adapter_that_is_not_installed_is_not_there() -> None:
    with pytest.raises(BadInput, match="no adapter for 'spark-yarn'"):
        adapter_factory("spark-yarn")


@pytest.mark.usefixtures("plugged")
def test_an_option_that_it_does_not_know_is_refused() -> None:
    with pytest.raises(BadInput, match="needs url and warehouse"):
        adapter_factory("spark-yarn")(Surroundings("tests", PLANE, 5.0, {"url": "http://x", "folder": "/x"}))


async def test_it_finds_a_jobs_application_and_nobody_elses(adapter: Adapter, yarn: ResourceManager) -> None:
    work, other, unknown = named_work(), named_work(), named_work()
    app_id = yarn.run(work.tag)
    yarn.run(other.tag)
    yarn.run(work.tag.replace("countermand:tests:", "countermand:theirs:"))
    yarn.run("PySparkShell")

    listings = await adapter.find([work, unknown])
    running = await adapter.running()
    await adapter.aclose()

    [run] = listings[work.job_id].runs
    assert (run.handle.run_id, run.job_id, run.status) == (app_id, work.job_id, RunStatus.ACTIVE)
    assert listings[unknown.job_id].complete
    assert listings[unknown.job_id].runs == ()
    assert {run.job_id for run in running.runs} == {work.job_id, other.job_id}


async def test_a_kill_is_no_evidence_and_the_applications_state_is(adapter: Adapter, yarn: ResourceManager) -> None:
    work = named_work()
    yarn.run(work.tag)
    [run] = (await adapter.find([work]))[work.job_id].runs
    yarn.kills = False
    first = await adapter.stop([run], Rung.ASK)
    meanwhile = await status_of(adapter, work)
    yarn.kills = True

    await adapter.stop([run], Rung.ASK)
    observed = await adapter.observe([run])
    await adapter.aclose()

    assert (first, meanwhile) == ({run.handle: StopAnswer.ACCEPTED}, RunStatus.ACTIVE)
    assert (observed[run.handle].status, observed[run.handle].word) == (RunStatus.STOPPED, "KILLED")


@pytest.mark.parametrize(
    ("state", "final", "status"),
    [
        ("ACCEPTED", "UNDEFINED", RunStatus.ACTIVE),
        ("FINISHED", "SUCCEEDED", RunStatus.SUCCEEDED),
        ("FINISHED", "FAILED", RunStatus.ERRORED),
        ("FAILED", "FAILED", RunStatus.ERRORED),
        ("KILLED", "KILLED", RunStatus.STOPPED),
        ("FINISHED", "UNDEFINED", RunStatus.UNKNOWN),
    ],
)
async def test_its_words_mean_what_they_say(
    adapter: Adapter, yarn: ResourceManager, state: str, final: str, status: RunStatus
) -> None:
    work = named_work()
    yarn.run(work.tag, state, final)

    assert await status_of(adapter, work) is status
    await adapter.aclose()


async def test_its_jobs_outputs_are_published_and_discarded(adapter: Adapter, tmp_path: Path) -> None:
    warehouse, committed, cancelled = Warehouse(tmp_path), uuid4(), uuid4()
    for job in (committed, cancelled):
        warehouse.folder(Output(Kind.VIEW, job)).mkdir(parents=True)
        (warehouse.folder(Output(Kind.VIEW, job)) / "_SUCCESS").touch()
    order = Work(committed, "tag", publication=Publication(7, 1))

    published = await adapter.publish([order])
    discarded = await adapter.discard([order, Work(cancelled, "tag")])
    await adapter.aclose()

    assert published == frozenset[UUID]({committed})
    assert discarded == {cancelled: (str(warehouse.folder(Output(Kind.VIEW, cancelled))),)}


async def test_silence_is_no_answer(plugged: None, tmp_path: Path) -> None:
    options = {"url": "http://127.0.0.1:9", "warehouse": str(tmp_path)}
    adapter = adapter_factory("spark-yarn")(Surroundings("tests", PLANE, 5.0, options))

    with pytest.raises(EngineUnavailable, match="YARN does not answer"):
        await adapter.find([named_work()])
    await adapter.aclose()


def test_the_page_about_adapters_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "adapters.md").read_text()
    shown = re.findall(r"^```(?:toml|python)\n(.+?)^```$", page, flags=re.DOTALL | re.MULTILINE)

    assert (PLUGIN / "pyproject.toml").read_text() in shown
    example = (PLUGIN / "countermand_yarn" / "__init__.py").read_text()
    excerpts = [text for text in shown if "class YarnAdapter" in text or "def _run" in text]
    assert excerpts
    assert all(text in example for text in excerpts)
