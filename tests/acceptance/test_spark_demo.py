"""``countermand demo --spark``: the demo's fates on both kinds of cluster, and nothing of it is left behind."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from control_plane.errors import ExitCode
from tests.acceptance.demonstrated import Demo, fates_of, interrupt, job_of, receipt_of

VIEW = "materialize-view"
CLUSTERS = {"shared": "spark-connect", "dedicated": "spark-standalone"}
#: On each cluster; by name: the job's type, its state, its outcome.
FATES = {
    "running": (VIEW, "cancelled", "stopped"),
    "pending": (VIEW, "cancelled", "never_started"),
    "asked_twice": (VIEW, "cancelled", "stopped"),
    "finished_first": (VIEW, "completed", None),
    "executor_killed": (VIEW, "cancelled", "stopped"),
}
ONCE = {"not_cancellable": ("datasets_deliver_data", "pending", None)}

pytestmark = [pytest.mark.spark, pytest.mark.timeout(1200)]


@pytest.fixture
def demo() -> Iterator[Demo]:
    with Demo.in_own_folder() as made:
        yield made


def test_eleven_jobs_meet_their_fates_on_a_shared_and_a_dedicated_cluster_that_it_starts_and_ends(
    demo: Demo, record_property: Callable[[str, object], None]
) -> None:
    began_at = monotonic()
    process = demo.start("--spark", "--json")
    _, said = process.communicate(timeout=1100)
    record_property("countermand demo --spark", f"{monotonic() - began_at:.0f} s")

    assert (process.returncode, said.decode()) == (0, ""), demo.output.read_text()
    told = json.loads(demo.output.read_text())  # the whole of stdout, and nothing else
    assert list(told) == ["spark", "jobs", "cpu", "ok"]
    assert told["ok"] is True
    on_both = {f"{cluster}_{name}": fate for cluster in CLUSTERS for name, fate in FATES.items()}
    assert fates_of(told) == on_both | ONCE
    for cluster, engine in CLUSTERS.items():
        for name in ("running", "asked_twice", "executor_killed"):
            assert receipt_of(told, f"{cluster}_{name}")["engine"] == engine
        assert receipt_of(told, f"{cluster}_pending")["closure"] == "never_claimed"
        assert receipt_of(told, f"{cluster}_executor_killed")["closure"] == "engine_closed"
        assert job_of(told, f"{cluster}_finished_first")["receipt"] is None
    assert receipt_of(told, "dedicated_running")["engine_status"] == "KILLED"
    for load in told["cpu"]:
        assert load["running"] > 5, load  # of a machine that others use as well
        assert load["after"] < 20, load
    assert demo.children() == []
    assert demo.leavings() == set()


def test_it_says_what_it_waits_for_and_an_interrupt_ends_the_servers_as_well(demo: Demo) -> None:
    process = demo.start("--spark")
    demo.until_printed("Spark Connect server", seconds=200)
    demo.until_printed("shared_running", seconds=200)
    demo.until_printed("Starting 3 long jobs on the shared cluster", seconds=60)
    assert any("SparkConnectServer" in part for child in demo.children() for part in child.cmdline())

    code, said = interrupt(process, signal.SIGINT)

    assert (code, said.count("\n")) == (130, 1), said
    assert demo.children() == []
    assert demo.leavings() == set()


def fake_spark(folder: Path) -> Path:
    """A folder of packages in which there is one, with jars, that is called as Spark is."""
    (folder / "packages" / "pyspark" / "jars").mkdir(parents=True)
    (folder / "packages" / "pyspark" / "__init__.py").touch()
    return folder / "packages"


def test_as_installed_from_the_wheel_it_says_what_to_install_before_anything_is_started(demo: Demo, full: Path) -> None:
    process = demo.start("--spark", command=(full / "countermand",))
    _, said = process.communicate(timeout=120)

    assert process.returncode == ExitCode.REFUSED
    assert said.decode().startswith("countermand: pyspark is not installed: to start Spark here, pip install ")
    assert said.count(b"\n") == 1
    assert (demo.output.read_text(), demo.children(), demo.leavings()) == ("", [], set())


def test_with_the_thin_client_alone_it_says_what_to_install(demo: Demo, full: Path, tmp_path: Path) -> None:
    packages = fake_spark(tmp_path)
    (packages / "pyspark" / "jars").rmdir()

    process = demo.start("--spark", command=(full / "countermand",), settings={"PYTHONPATH": str(packages)})
    _, said = process.communicate(timeout=120)

    assert process.returncode == ExitCode.REFUSED
    assert said.decode().startswith("countermand: only Spark's thin client is installed here")
    assert (demo.output.read_text(), demo.children(), demo.leavings()) == ("", [], set())


def test_without_java_it_says_what_to_install(demo: Demo, full: Path, tmp_path: Path) -> None:
    no_java = {"PYTHONPATH": str(fake_spark(tmp_path)), "JAVA_HOME": "", "PATH": str(tmp_path)}

    process = demo.start("--spark", command=(full / "countermand",), settings=no_java)
    _, said = process.communicate(timeout=120)

    assert process.returncode == ExitCode.REFUSED
    assert said.decode().startswith(
        "countermand: Spark finds no Java of 17 or newer, neither by JAVA_HOME nor on the PATH"
    )
    assert (demo.output.read_text(), demo.children(), demo.leavings()) == ("", [], set())
