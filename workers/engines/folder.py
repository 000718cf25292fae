"""The executor's data folder: its identity, which start of it this is, and the lock that makes both true.

One folder is one executor. Whoever holds its lock may vouch that every earlier start of this folder is dead, so the
folder must be the very one that those starts held: a copy is refused.
"""

import fcntl
import os
from pathlib import Path
from typing import Self
from uuid import uuid4

import msgspec
from msgspec import Struct

from control_plane.errors import Refused

IDENTITY = "executor.json"
LOCK = "executor.lock"
DISOWNED = "executor.refused"


class _Place(Struct, frozen=True):
    """Where a folder is, as far as a copy of it would be elsewhere."""

    folder_inode: int
    lock_inode: int
    device: int
    boot: str  #: device numbers are comparable only within one boot


class _Identity(Struct, frozen=True):
    executor_id: str
    incarnation: int
    place: _Place


class Folder:
    """An executor's folder, held for as long as this process lives (or until it is closed)."""

    def __init__(self, path: Path, lock: int, identity: _Identity) -> None:
        self._lock = lock
        self.path = path
        self.executor_id = identity.executor_id
        self.incarnation = identity.incarnation

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take the folder, made if need be, and begin its next incarnation.

        Raises Refused when another process holds it, when it is a copy, and when it cannot be written.
        """
        lock = _take(path)
        try:
            _refuse_disowned(path)
            return cls(path, lock, _begin_incarnation(path, lock))
        except BaseException:
            os.close(lock)
            raise

    def disown(self, reason: str) -> None:
        """The control plane refused this folder, and every later start of it is refused as well.

        Otherwise a copy that is started again and again would overtake the original's incarnation.
        """
        (self.path / DISOWNED).write_text(reason)
        _sync_directory(self.path)

    def close(self) -> None:
        """Let another process take the folder."""
        os.close(self._lock)


def _take(path: Path) -> int:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Refused(f"data_folder: {path} cannot be written: {error.strerror}", field="data_folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Refused(_why_not_locked(path, error), field="data_folder") from error
    return lock


def _why_not_locked(path: Path, error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return (
            f"data_folder: {path} is held by another executor that is running; give each executor a folder of its own"
        )
    return f"data_folder: {path} cannot be locked: {error.strerror}"


def _refuse_disowned(path: Path) -> None:
    if (path / DISOWNED).exists():
        reason = (path / DISOWNED).read_text()
        raise Refused(f"{reason} (it was refused before: {DISOWNED} in it says so)", field="data_folder")


def _begin_incarnation(path: Path, lock: int) -> _Identity:
    place = _place_of(path, lock)
    known = _read(path / IDENTITY)
    if known is None:
        identity = _Identity(f"job-executor-{uuid4()}", 1, place)
    else:
        _refuse_copy(path, known, place)
        identity = _Identity(known.executor_id, known.incarnation + 1, place)
    _write(path / IDENTITY, identity)
    return identity


def _place_of(path: Path, lock: int) -> _Place:
    folder, file = path.stat(), os.fstat(lock)
    return _Place(folder.st_ino, file.st_ino, folder.st_dev, _boot())


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # not Linux: devices are then always compared


def _refuse_copy(path: Path, known: _Identity, place: _Place) -> None:
    """Inodes survive a reboot and a move within the file system, but no copy; device numbers change with a reboot."""
    was = known.place
    same_inodes = (was.folder_inode, was.lock_inode) == (place.folder_inode, place.lock_inode)
    if same_inodes and (was.boot != place.boot or was.device == place.device):
        return
    raise Refused(
        f"data_folder: {path} is a copy of the folder of {known.executor_id}, which may be running elsewhere; start "
        f"the original, or remove {IDENTITY} here to make this a new executor",
        field="data_folder",
    )


def _read(file: Path) -> _Identity | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Identity)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        message = f"data_folder: {file} cannot be read: {error}; restore it, or remove it to make this a new executor"
        raise Refused(message, field="data_folder") from error


def _write(file: Path, identity: _Identity) -> None:
    """Replace the file so that a power cut leaves the old one or the new one, and no incarnation is used twice."""
    draft = file.with_suffix(".new")
    try:
        with draft.open("wb") as out:
            out.write(msgspec.json.encode(identity))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
        _sync_directory(file.parent)
    except OSError as error:
        raise Refused(f"data_folder: {file} cannot be written: {error.strerror}", field="data_folder") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
