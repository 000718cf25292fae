"""A dedicated job's script: who closes it has closed the job, and what has begun is seen afterwards."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.narrative.spark_standalone_scripts import Folder, State, _escaped, _unescaped, job_of
from control_plane.errors import Conflict, EngineUnavailable
from tests.narrative import named_work

TAG = named_work().tag


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def log_of(folder: Folder, name: str, *, driver: str | None) -> Path:
    """An event log as Spark begins it; it may not have told yet in which driver's folder it runs."""
    started = {"Event": "SparkListenerLogStart", "Spark Version": "4.3.0"}
    environment = {"Event": "SparkListenerEnvironmentUpdate", "System Properties": {"user.dir": f"/srv/work/{driver}"}}
    log = folder.events(TAG) / name
    log.write_text("\n".join(map(json.dumps, [started, environment] if driver else [started])))
    return log


def test_a_closed_script_is_not_there_to_be_read_and_its_text_is_gone_for_good(folder: Folder) -> None:
    script = folder.begin(TAG, "SELECT 1")
    assert script.read_text() == "SELECT 1"

    folder.close(TAG)
    folder.close(TAG)

    with pytest.raises(FileNotFoundError):
        script.read_text()
    assert folder.state(TAG) == State(begun=True, closed=True)


def test_a_job_that_was_closed_or_begun_cannot_be_begun(folder: Folder) -> None:
    folder.close("countermand:closed")
    folder.begin("countermand:begun", "SELECT 1")

    for tag, word in {"countermand:closed": "closed", "countermand:begun": "started before"}.items():
        with pytest.raises(Conflict, match=word):
            folder.begin(tag, "SELECT 2")


def test_whoever_begins_and_closes_at_once_the_job_is_closed(folder: Folder) -> None:
    def begin(tag: str) -> None:
        with suppress(Conflict):  # it was closed first
            folder.begin(tag, "SELECT 1")

    with ThreadPoolExecutor(8) as threads:
        for tag in (f"countermand:{number}" for number in range(50)):
            done = [threads.submit(call, tag) for call in (begin, folder.close, folder.close)]
            for each in done:
                each.result()

            assert folder.state(tag) == State(begun=True, closed=True)
            with pytest.raises(Conflict, match="closed"):
                folder.begin(tag, "SELECT 2")


def test_an_open_script_of_which_no_driver_is_known_proves_nothing(folder: Folder) -> None:
    assert folder.state(TAG).is_certain

    folder.begin(TAG, "SELECT 1")
    assert not folder.state(TAG).is_certain

    folder.close(TAG)
    assert folder.state(TAG).is_certain


def test_a_driver_that_has_begun_is_known_by_its_event_log_also_after_closing(folder: Folder) -> None:
    folder.begin(TAG, "SELECT 1")
    log_of(folder, "app-20260131120000-0003.inprogress", driver="driver-20260131115958-0007")
    folder.close(TAG)

    assert folder.state(TAG) == State(True, True, frozenset({"driver-20260131115958-0007"}))


def test_an_application_tells_its_end_by_the_name_of_its_event_log(folder: Folder) -> None:
    folder.begin(TAG, "SELECT 1")
    log = log_of(folder, "app-20260131120000-0003.inprogress", driver="driver-20260131115958-0007")
    assert folder.state(TAG).ended == frozenset()

    log.rename(log.with_suffix(""))

    assert folder.state(TAG).ended == folder.state(TAG).drivers == {"driver-20260131115958-0007"}


def test_a_driver_that_has_not_told_its_name_yet_leaves_open_what_runs(folder: Folder) -> None:
    folder.begin(TAG, "SELECT 1")
    log_of(folder, "app-20260131120000-0003.inprogress", driver=None)
    folder.close(TAG)

    assert not folder.state(TAG).is_certain

    folder.name_driver(TAG, "driver-20260131115958-0007")
    assert folder.state(TAG) == State(True, True, frozenset({"driver-20260131115958-0007"}))


def test_a_second_driver_of_a_job_is_found_beside_the_one_that_was_named(folder: Folder) -> None:
    """A proxy between us and the master may have sent a submission twice."""
    folder.begin(TAG, "SELECT 1")
    folder.name_driver(TAG, "driver-20260131115958-0007")
    log_of(folder, "app-20260131120000-0003", driver="driver-20260131115958-0008")

    assert folder.state(TAG).drivers == {"driver-20260131115958-0007", "driver-20260131115958-0008"}

    log_of(folder, "app-20260131120000-0004.inprogress", driver=None)
    log_of(folder, "app-20260131120000-0005.inprogress", driver=None)
    assert folder.state(TAG).nameless


def test_a_warehouse_has_one_name_whoever_asks_first(folder: Folder, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        names = set(threads.map(lambda _: Folder(tmp_path).name(), range(40)))

    assert len(names) == 1
    assert folder.name() in names
    assert [path.name for path in (tmp_path / "drivers").iterdir()] == ["NAME"]


def test_without_its_warehouse_nothing_is_known_of_a_job(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="is it mounted"):
        Folder(tmp_path / "absent").state(TAG)
    with pytest.raises(EngineUnavailable, match="is it mounted"):
        Folder(tmp_path / "absent").close(TAG)


def test_a_name_that_spark_has_redacted_is_no_drivers(folder: Folder) -> None:
    """It redacts every value with `token` or `secret` in it, also the folder that workers make for their drivers."""
    folder.begin(TAG, "SELECT 1")
    log_of(folder, "app-20260131120000-0003.inprogress", driver="*********(redacted)")
    folder.close(TAG)

    assert folder.state(TAG) == State(True, True, frozenset(), nameless=True)


def test_an_empty_folder_where_the_warehouse_was_mounted_knows_nothing_of_a_job(tmp_path: Path) -> None:
    (mounted := tmp_path / "warehouse").mkdir()
    folder = Folder(mounted)
    folder.name()
    folder.begin(TAG, "SELECT 1")
    mounted.rename(tmp_path / "elsewhere")
    mounted.mkdir()

    begin = partial(folder.begin, sql="SELECT 1")
    for call in (folder.state, folder.close, folder.executors_at, folder.tags, begin):
        with pytest.raises(EngineUnavailable, match="is it mounted"):
            call(TAG)
    assert list(mounted.iterdir()) == []


def test_the_jobs_of_a_plane_are_remembered_until_they_are_forgotten(folder: Folder) -> None:
    folder.name()
    folder.begin(TAG, "SELECT 1")
    folder.close("countermand:another:plane:job:run")

    assert folder.tags("countermand:tests:") == [TAG]

    folder.forget(TAG)
    folder.forget(TAG)
    assert folder.tags("countermand:tests:") == []
    assert folder.state(TAG) == State(begun=False)


def test_an_executor_that_stalled_cannot_begin_a_job_that_was_closed_and_then_forgotten(
    folder: Folder, tmp_path: Path
) -> None:
    """It counts on its permit, which is not at its end when another executor has cleared away what is left."""
    folder.name()
    script = folder.begin(TAG, "SELECT 1")
    folder.name_driver(TAG, "driver-20260131115958-0007")
    folder.close(TAG)

    folder.forget(TAG)

    assert [path.name for path in script.parent.iterdir()] == ["run.sql"]
    assert folder.tags("countermand:tests:") == []
    assert folder.state(TAG) == State(begun=True, closed=True)
    with pytest.raises(Conflict, match="closed"):
        folder.begin(TAG, "SELECT 1")

    os.utime(script, (0, 0), follow_symlinks=False)  # no permit is as long
    assert folder.tags("countermand:tests:") == [TAG]
    folder.forget(TAG)
    assert [path.name for path in (tmp_path / "drivers").iterdir()] == ["NAME"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30), st.text())
def test_every_tag_has_a_folder_of_its_own(tag: str, other: str) -> None:
    assert _unescaped(_escaped(tag)) == tag
    assert "/" not in _escaped(tag)
    assert _escaped(tag)[0] != "."
    assert (_escaped(tag) == _escaped(other)) == (tag == other)


def test_a_tag_tells_its_job_if_it_is_a_runs() -> None:
    work = named_work()

    assert job_of(work.tag) == work.job_id
    assert [job_of(tag) for tag in (work.tag + "s", "run", "a:b:run", work.tag.replace("run", "publish"))] == [None] * 4
