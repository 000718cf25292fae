"""One folder is one executor, each start one incarnation, and only one start at a time."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.errors import Refused
from workers.engines.folder import DISOWNED, IDENTITY, LOCK, Folder

HOLD = """
import sys, time
from pathlib import Path
from workers.engines.folder import Folder
folder = Folder.open(Path(sys.argv[1]))
print(folder.executor_id, flush=True)
sys.stdin.read()
"""


def test_each_start_is_the_same_executor_in_a_higher_incarnation(tmp_path: Path) -> None:
    first = Folder.open(tmp_path / "data")
    first.close()

    second = Folder.open(tmp_path / "data")

    assert (first.incarnation, second.incarnation) == (1, 2)
    assert second.executor_id == first.executor_id
    assert first.executor_id.startswith("job-executor-")
    second.close()


def test_two_folders_are_two_executors(tmp_path: Path) -> None:
    one, other = Folder.open(tmp_path / "one"), Folder.open(tmp_path / "other")

    assert one.executor_id != other.executor_id
    one.close()
    other.close()


def test_a_folder_that_is_held_is_refused(tmp_path: Path) -> None:
    held = Folder.open(tmp_path)

    with pytest.raises(Refused, match="held by another executor") as refused:
        Folder.open(tmp_path)

    assert refused.value.field == "data_folder"
    held.close()


def test_a_refused_start_uses_up_no_incarnation(tmp_path: Path) -> None:
    held = Folder.open(tmp_path)
    with pytest.raises(Refused):
        Folder.open(tmp_path)
    held.close()

    assert reopened(tmp_path) == 2


def test_a_killed_process_lets_go_of_its_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        executor_id = holder.stdout.readline().strip()
        with pytest.raises(Refused):
            Folder.open(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        folder = Folder.open(tmp_path)

    assert (folder.executor_id, folder.incarnation) == (executor_id, 2)
    folder.close()


def test_a_copy_of_a_folder_is_refused_even_when_the_original_is_gone(tmp_path: Path) -> None:
    Folder.open(tmp_path / "original").close()
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    shutil.rmtree(tmp_path / "original")

    with pytest.raises(Refused, match="is a copy"):
        Folder.open(tmp_path / "copy")


def test_a_folder_that_was_moved_is_still_the_same(tmp_path: Path) -> None:
    Folder.open(tmp_path / "here").close()
    (tmp_path / "here").rename(tmp_path / "there")

    assert reopened(tmp_path / "there") == 2


def test_removing_the_lock_does_not_let_a_second_process_in(tmp_path: Path) -> None:
    held = Folder.open(tmp_path)
    (tmp_path / LOCK).rename(tmp_path / "elsewhere")

    with pytest.raises(Refused):
        Folder.open(tmp_path)

    held.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"executor_id": 1}', b"[1, 2]"])
def test_a_damaged_identity_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / IDENTITY).write_bytes(content)

    with pytest.raises(Refused, match="cannot be read"):
        Folder.open(tmp_path)

    assert (tmp_path / IDENTITY).read_bytes() == content


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(Refused, match="cannot be written"):
        Folder.open(Path("/proc/countermand"))


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Refused, match="cannot be written"):
        Folder.open(tmp_path / "file")


def test_a_folder_that_was_disowned_is_refused_at_every_later_start_and_comes_no_further(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    folder.disown("data_folder: it was copied or restored")
    folder.close()
    before = (tmp_path / IDENTITY).read_bytes()

    for _ in range(3):
        with pytest.raises(Refused, match=rf"^data_folder: it was copied or restored \(.*{DISOWNED}") as refused:
            Folder.open(tmp_path)

        assert refused.value.field == "data_folder"
    assert (tmp_path / IDENTITY).read_bytes() == before


def test_a_disowned_folder_is_taken_again_once_somebody_has_removed_the_mark(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    folder.disown("data_folder: it was copied or restored")
    folder.close()

    (tmp_path / DISOWNED).unlink()

    assert reopened(tmp_path) == 2


def reopened(path: Path) -> int:
    """The incarnation that one more start is."""
    folder = Folder.open(path)
    folder.close()
    return folder.incarnation
