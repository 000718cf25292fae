"""What jobs on Spark leave in the warehouse: nobody sees half of it, whoever dies, and whoever publishes at once."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from adapters.narrative.spark_outputs import Outputs
from adapters.narrative.spark_warehouse import MANIFEST, SHOWN, WHOLE, Kind, Manifest, Output, Warehouse
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.work import Publication

DATASET = 7


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path)
    warehouse.prepare()
    return warehouse


def written(warehouse: Warehouse, kind: Kind = Kind.VIEW, *, whole: bool = True, job_id: UUID | None = None) -> UUID:
    """A job whose rows are there, as Spark leaves them."""
    output = Output(kind, job_id or uuid4())
    folder = warehouse.folder(output)
    folder.mkdir()
    extension = "json" if kind is Kind.ANSWER else "parquet"
    (folder / f"part-00000-{output.job_id}.{extension}").write_text('{"rows":3}\n')
    if whole:
        (folder / WHOLE).touch()
    else:
        (folder / "_temporary" / "0").mkdir(parents=True)
        (folder / "_temporary" / "0" / "part-00001.parquet").write_text("half")
    return output.job_id


def seen(warehouse: Warehouse, kind: Kind = Kind.VIEW) -> UUID | None:
    """Whose rows readers find; every one of them must be there."""
    manifest = warehouse.shown(kind, DATASET)
    if manifest is None:
        return None
    folder = warehouse.root / str(manifest.output)
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"part", WHOLE, SHOWN}
    return manifest.job_id


def entries(warehouse: Warehouse) -> set[str]:
    """The folders of outputs that are there."""
    return {path.name for path in (warehouse.root / "outputs").iterdir()}


def publication(number: int) -> Publication:
    return Publication(DATASET, number)


# --- publishing


def test_readers_see_nothing_before_and_the_jobs_rows_after_its_publication(warehouse: Warehouse) -> None:
    job = written(warehouse)
    before = seen(warehouse)

    published = warehouse.publish(job, publication(1))

    assert published
    assert (before, seen(warehouse)) == (None, job)


def test_a_sample_is_published_beside_the_dataset_and_not_in_its_place(warehouse: Warehouse) -> None:
    view, sample = written(warehouse), written(warehouse, Kind.SAMPLE)

    assert warehouse.publish(view, publication(1))
    assert warehouse.publish(sample, publication(2))

    assert seen(warehouse) == view
    assert seen(warehouse, Kind.SAMPLE) == sample


def test_the_pointer_never_moves_to_a_lower_number(warehouse: Warehouse) -> None:
    late, early = written(warehouse), written(warehouse)
    warehouse.publish(late, publication(2))

    stands = warehouse.publish(early, publication(1))

    assert stands  # it was superseded
    assert seen(warehouse) == late


def test_publishing_again_changes_nothing(warehouse: Warehouse) -> None:
    job = written(warehouse)
    warehouse.publish(job, publication(1))
    before = sorted(warehouse.root.rglob("*"))

    assert warehouse.publish(job, publication(1))

    assert sorted(warehouse.root.rglob("*")) == before


def test_a_number_that_is_another_jobs_is_not_taken_from_it(warehouse: Warehouse) -> None:
    first, second = written(warehouse), written(warehouse)
    warehouse.publish(first, publication(1))

    with pytest.raises(EngineUnavailable, match=f"publication 1 of ds_7 is job {first}'s, and not job {second}'s"):
        warehouse.publish(second, publication(1))

    assert seen(warehouse) == first


@pytest.mark.parametrize("state", ["absent", "without _SUCCESS", "an answer"])
def test_what_is_no_whole_output_is_not_published(warehouse: Warehouse, state: str) -> None:
    job = uuid4()
    if state == "without _SUCCESS":
        written(warehouse, whole=False, job_id=job)
    elif state == "an answer":
        written(warehouse, Kind.ANSWER, job_id=job)

    assert not warehouse.publish(job, publication(1))

    assert seen(warehouse) is None


def test_the_last_two_publications_keep_their_rows_and_older_ones_lose_them(warehouse: Warehouse) -> None:
    jobs = [written(warehouse) for _ in range(4)]
    for number, job in enumerate(jobs, start=1):
        warehouse.publish(job, publication(number))

    assert entries(warehouse) == {f"JOB_{job}" for job in jobs[2:]}
    assert all(warehouse.publish(job, publication(number)) for number, job in enumerate(jobs, start=1))
    assert seen(warehouse) == jobs[3]


def test_a_publisher_that_comes_too_late_removes_its_own_rows(warehouse: Warehouse) -> None:
    late, *others = (written(warehouse) for _ in range(3))
    for number, job in enumerate(others, start=2):
        warehouse.publish(job, publication(number))

    assert warehouse.publish(late, publication(1))

    assert entries(warehouse) == {f"JOB_{job}" for job in others}


def test_many_publishers_of_many_jobs_leave_the_highest_shown(warehouse: Warehouse) -> None:
    jobs = [written(warehouse) for _ in range(12)]
    together = threading.Barrier(8)

    def publish_all(order: Callable[[int], int]) -> list[bool]:
        together.wait()
        numbers = sorted(range(len(jobs)), key=order)
        return [warehouse.publish(jobs[index], publication(index + 1)) for index in numbers]

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(publish_all, [lambda index, by=by: (index * by) % 13 for by in range(1, 9)]))

    assert told == [[True] * 12] * 8
    assert seen(warehouse) == jobs[-1]
    assert entries(warehouse) == {f"JOB_{job}" for job in jobs[-2:]}
    manifests = [path.name for path in (warehouse.root / "datasets" / "ds_7").iterdir()]
    assert sorted(manifests) == [f"{number:020d}.json" for number in range(1, 13)]


# --- dying at every step


def killed_at_each_step(root: Path, *action: str) -> Iterator[None]:
    """Let a process do it, and be killed one step later each time, until it comes to its end."""
    for step in count(1):
        command = [sys.executable, "-m", "tests.integration.publishing", str(step), str(root), *action]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        if ran.returncode == 0:
            assert step > 3, "it was never killed"
            return
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        yield


def test_readers_see_the_old_rows_or_the_new_ones_wherever_a_publisher_dies(warehouse: Warehouse) -> None:
    """Each time a job more is published, by a process that dies in between and by another that comes after it."""
    old = [written(warehouse) for _ in range(3)]
    for number, job in enumerate(old, start=1):
        warehouse.publish(job, publication(number))
    shown, number = old[-1], 4
    new = written(warehouse)
    for _ in killed_at_each_step(warehouse.root, "publish", str(new), str(DATASET), "4"):
        assert seen(warehouse) in (shown, new)

    assert seen(warehouse) == new
    assert warehouse.publish(new, publication(number))
    assert entries(warehouse) == {f"JOB_{job}" for job in (shown, new)}


def test_whoever_comes_after_a_dead_publisher_takes_up_what_it_left(tmp_path: Path) -> None:
    for step in count(1):
        root = tmp_path / f"step_{step}"
        root.mkdir()
        warehouse = Warehouse(root)
        warehouse.prepare()
        oldest, older, old, new = (written(warehouse) for _ in range(4))
        for number, job in enumerate((oldest, older, old), start=1):
            warehouse.publish(job, publication(number))
        command = [sys.executable, "-m", "tests.integration.publishing", str(step), str(root)]
        ran = subprocess.run([*command, "publish", str(new), "7", "4"], check=False, capture_output=True, text=True)

        again = warehouse.publish(new, publication(4))

        assert again
        assert seen(warehouse) == new
        assert entries(warehouse) == {f"JOB_{old}", f"JOB_{new}"}
        left = {path.name for path in (root / "datasets" / "ds_7").iterdir()}
        assert all(MANIFEST.fullmatch(name) for name in left), left
        if ran.returncode == 0:
            assert step > 10
            return


def test_what_is_half_removed_is_never_whole_wherever_the_remover_dies(warehouse: Warehouse) -> None:
    job = written(warehouse)
    folder = warehouse.folder(Output(Kind.VIEW, job))
    for number in range(1, 8):
        (folder / f"part-{number:05d}.parquet").touch()
    for _ in killed_at_each_step(warehouse.root, "discard", str(job)):
        assert not (folder / WHOLE).exists() or len(list(folder.glob("part-*"))) == 8

    assert entries(warehouse) == set()


def test_an_answer_is_told_whole_or_not_at_all_wherever_a_reader_dies(warehouse: Warehouse) -> None:
    job = written(warehouse, Kind.ANSWER)
    for _ in killed_at_each_step(warehouse.root, "take", str(job)):
        told = warehouse.take_answer(job)
        assert told in (None, b'{"rows":3}\n')
        warehouse.discard(job)
        written(warehouse, Kind.ANSWER, job_id=job)


# --- clearing away


def test_what_no_reader_was_shown_is_told_and_removed(warehouse: Warehouse) -> None:
    shown, half, whole = written(warehouse), written(warehouse, whole=False), written(warehouse, Kind.SAMPLE)
    warehouse.publish(shown, publication(1))
    assert sorted(warehouse.unpublished()) == sorted([half, whole])

    removed = {job: warehouse.discard(job) for job in (shown, half, whole, uuid4())}

    assert [names for names in removed.values() if names] == [
        (f"{warehouse.root}/outputs/JOB_{half}",),
        (f"{warehouse.root}/outputs/SAMPLE_{whole}",),
    ]
    assert warehouse.unpublished() == []
    assert seen(warehouse) == shown


def test_what_a_late_task_writes_anew_is_told_and_removed_again(warehouse: Warehouse) -> None:
    job = written(warehouse, whole=False)
    warehouse.discard(job)
    written(warehouse, whole=False, job_id=job)

    told, removed = warehouse.unpublished(), warehouse.discard(job)

    assert told == [job]
    assert removed
    assert warehouse.unpublished() == []


def test_a_task_that_goes_on_writing_keeps_nothing_from_being_removed_later(warehouse: Warehouse) -> None:
    job = written(warehouse, whole=False)

    def write_on() -> None:
        for number in range(300):
            attempt = warehouse.folder(Output(Kind.VIEW, job)) / "_temporary" / f"attempt_{number}"
            attempt.mkdir(parents=True, exist_ok=True)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write_on)
        while not writing.done():
            with suppress(OSError):  # it was written faster than removed
                warehouse.discard(job)
        writing.result()
    warehouse.discard(job)

    assert entries(warehouse) == set()


# --- what is none of ours


@pytest.mark.parametrize("name", ["JOB_1", "job_{}", "JOB_{}.old", "LOG_{}", "JOB_{}/..", "..", "notes.txt"])
def test_names_that_are_none_of_ours_are_left_alone(warehouse: Warehouse, name: str) -> None:
    strange = warehouse.root / "outputs" / name.format(uuid4())
    strange.mkdir(parents=True, exist_ok=True)

    assert [job for job in warehouse.unpublished() if not (warehouse.root / "outputs" / f"JOB_{job}").is_dir()] == []
    assert strange.exists()


def test_a_symbolic_link_in_the_place_of_an_output_is_neither_published_nor_followed(warehouse: Warehouse) -> None:
    job, elsewhere = uuid4(), warehouse.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / WHOLE).touch()
    warehouse.folder(Output(Kind.VIEW, job)).symlink_to(elsewhere)

    assert not warehouse.publish(job, publication(1))
    assert warehouse.unpublished() == []
    assert warehouse.discard(job) == ()

    assert (elsewhere / WHOLE).exists()


def test_a_symbolic_link_within_an_output_is_removed_and_not_followed(warehouse: Warehouse) -> None:
    job, elsewhere = written(warehouse, whole=False), warehouse.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (warehouse.folder(Output(Kind.VIEW, job)) / "_temporary" / "link").symlink_to(elsewhere)

    warehouse.discard(job)

    assert entries(warehouse) == set()
    assert (elsewhere / "kept").exists()


@pytest.mark.parametrize("names", [("datasets",), ("datasets", "ds_7")], ids="/".join)
def test_a_symbolic_link_in_the_place_of_a_folder_of_ours_is_refused(
    warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory, names: tuple[str, ...]
) -> None:
    elsewhere, link = tmp_path_factory.mktemp("elsewhere"), warehouse.root.joinpath(*names)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)

    with pytest.raises(EngineUnavailable, match="is a symbolic link, and none may be there"):
        warehouse.publish(written(warehouse), publication(1))

    assert list(elsewhere.iterdir()) == []


def test_outputs_behind_a_symbolic_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(EngineUnavailable, match="is a symbolic link, and none may be there"):
        Warehouse(tmp_path).unpublished()


@pytest.mark.parametrize(
    "root", ["relative", "/", "/a b", "/a'b", "/a/../b", "/a/$b", "/a*", "/a=1", "s3://bucket", "/a\nb"]
)
def test_a_root_that_spark_could_misread_is_refused(root: str) -> None:
    with pytest.raises(BadInput, match="allowed: an absolute path"):
        Warehouse(Path(root))


def test_a_warehouse_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "unmounted")

    with pytest.raises(EngineUnavailable, match="is no folder here; is it mounted"):
        warehouse.unpublished()

    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_is_none_is_told(warehouse: Warehouse) -> None:
    job = written(warehouse)
    warehouse.publish(job, publication(1))
    (warehouse.root / "datasets" / "ds_7" / f"{2:020d}.json").write_text("{")

    with pytest.raises(EngineUnavailable, match="is no manifest"):
        warehouse.shown(Kind.VIEW, DATASET)


def test_a_query_that_somebody_defined_is_shown_until_a_job_publishes(warehouse: Warehouse) -> None:
    warehouse.define(Kind.VIEW, DATASET, "SELECT 1 AS n")
    before = warehouse.shown(Kind.VIEW, DATASET)
    job = written(warehouse)

    warehouse.publish(job, publication(1))

    assert before == Manifest(sql="SELECT 1 AS n")
    assert seen(warehouse) == job


# --- from the event loop


@pytest.mark.anyio
async def test_one_job_that_cannot_be_published_keeps_no_other_from_it(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.prepare()
    first, second, third = (written(warehouse) for _ in range(3))
    warehouse.publish(first, publication(1))
    outputs = Outputs(tmp_path)

    published = await outputs.publish({second: publication(1), third: publication(2)})
    with pytest.raises(EngineUnavailable, match="is job"):
        await outputs.publish({second: publication(1)})
    await outputs.aclose()

    assert published == {third}


@pytest.mark.anyio
async def test_a_file_system_that_hangs_is_waited_for_no_longer_than_allowed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hang")
    warehouse = Warehouse(tmp_path)
    warehouse.prepare()
    job = written(warehouse, Kind.ANSWER)
    part = next(warehouse.folder(Output(Kind.ANSWER, job)).glob("part-*"))
    part.unlink()
    os.mkfifo(part)  # it opens once somebody writes
    outputs = Outputs(tmp_path, timeout_seconds=0.2)

    waiting = asyncio.create_task(outputs.take_answer(job))
    with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.2 s"):
        await waiting
    outputs._timeout_seconds = 60.0  # what does not hang is answered, if late
    told = await outputs.unpublished()
    part.write_text("")
    await outputs.aclose()

    assert told == [job]


@pytest.mark.anyio
async def test_what_the_file_system_refuses_is_told_as_the_engines_fault(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("no folder")
    outputs = Outputs(tmp_path)

    with pytest.raises(EngineUnavailable, match="outputs: "):
        await outputs.prepare()
    await outputs.aclose()
