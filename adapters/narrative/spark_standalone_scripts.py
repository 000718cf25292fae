"""The scripts that dedicated applications run: one file per job in the warehouse, by which a job is closed.

::

    drivers/NAME                        what this folder is called: the engine's incarnation, made once
    drivers/<tag>/run.sql               the job's one script
    drivers/<tag>/driver                the driver's id, once the master has answered with it
    drivers/<tag>/events/               Spark's event log, begun before the script is read; it names the driver

A standalone master can be asked neither for the driver of a tag nor to let none begin. So a driver is told where its
script is, and nothing else to run. Whoever closes a job puts in the script's place, by an atomic rename, a link that
leads nowhere: a driver that is launched afterwards, however late, finds nothing to run, and its own worker refuses it.
One that had read its script had begun its event log before, so that whoever looks after closing sees it there. This
needs nothing of the master's memory: where a script is closed and no event log was begun, nothing ran and nothing will.
"""

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

from adapters.narrative.spark_event_logs import driver_of, has_ended, workers_of
from control_plane.errors import Conflict, EngineUnavailable

Told = TypeVar("Told")

THREADS = 4  #: a file system that hangs keeps these, and no other thread of the process
DRIVERS = "drivers"
NAME = "NAME"
SCRIPT = "run.sql"
DRIVER = "driver"
EVENTS = "events"
#: What a closed script leads to; nothing of this name is ever there.
CLOSED = "closed--nothing-of-this-job-may-begin-any-more"
CLOSED_KEPT_SECONDS = 86_400.0  #: longer than any permit to submit
ESCAPED = re.compile(r"_([0-9a-f]+)_")


class State(NamedTuple):
    """What the folder tells of one job."""

    begun: bool  #: somebody was to submit it
    closed: bool = False
    drivers: frozenset[str] = frozenset()  #: the drivers that are known to be the job's
    nameless: bool = False  #: a driver has begun that has not told its name
    ended: frozenset[str] = frozenset()  #: the drivers whose application has ended, by its own event log

    @property
    def is_certain(self) -> bool:
        """Whether no driver that runs the job's script can be missing."""
        return not self.nameless and (not self.begun or self.closed or bool(self.drivers))


class Folder:
    """The scripts in one warehouse, whose path Hadoop takes as it is. Several processes may use them at once.

    Everything here blocks. Raises OSError for what the file system refuses, and EngineUnavailable without the
    warehouse, also where another folder is in its place: it is called *name*, or as it was when it was first asked.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        self._root = root
        self._drivers = root / DRIVERS
        self._name = name

    def name(self) -> str:
        """What names this folder: whoever looks into another one knows nothing of these jobs. Made if need be."""
        self._prepare()
        path = self._drivers / NAME
        if not path.exists():
            draft = self._drivers / f".{secrets.token_hex(8)}"
            draft.write_text(f"warehouse-{secrets.token_hex(8)}")
            _sync(draft)
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                pass  # somebody else was first
            finally:
                draft.unlink()
            _sync(self._drivers)
        self._name = path.read_text()
        return self._name

    def begin(self, tag: str, sql: str) -> Path:
        """Write the job's script, from which a driver is to be submitted now; answers where it is.

        Raises Conflict when the job was closed or begun before.
        """
        self._prepare()
        script = self._job(tag) / SCRIPT
        (script.parent / EVENTS).mkdir(parents=True, exist_ok=True)
        try:
            with script.open("x") as out:  # never through a link, not even one that leads nowhere
                out.write(sql)
                out.flush()
                os.fsync(out.fileno())
        except FileExistsError:
            was = "closed; nothing of it may start any more" if script.is_symlink() else "started before"
            raise Conflict(f"tag: {tag} was {was}", field="tag") from None
        _sync(script.parent)
        return script

    def events(self, tag: str) -> Path:
        """Where the job's driver writes its event log."""
        return self._job(tag) / EVENTS

    def name_driver(self, tag: str, driver_id: str) -> None:
        """Note the driver of the job for whoever looks here before its handle is recorded."""
        draft = self._job(tag) / f".{secrets.token_hex(8)}"
        draft.write_text(driver_id)
        draft.replace(self._job(tag) / DRIVER)

    def close(self, tag: str) -> None:
        """From now on no driver finds anything to run for the job, whether or not it was begun. Repeatable."""
        self._prepare()
        job = self._job(tag)
        job.mkdir(exist_ok=True)
        if (job / SCRIPT).is_symlink():
            return
        link = job / f".{secrets.token_hex(8)}"
        link.symlink_to(CLOSED)
        link.replace(job / SCRIPT)
        _sync(job)
        _sync(self._drivers)

    def state(self, tag: str) -> State:
        """What is known of the job."""
        self._check()
        job = self._job(tag)
        closed = (job / SCRIPT).is_symlink()  # asked first: what had read it before has begun its events by now
        begun = closed or (job / SCRIPT).exists()
        named = {told for told in [_read(job / DRIVER)] if told}
        logs = list(_logs(job / EVENTS))
        told = {log: driver_of(log) for log in logs}
        drivers = frozenset(named | {driver for driver in told.values() if driver})
        ended = frozenset(driver for log, driver in told.items() if driver and has_ended(log))
        # An application has one driver, so that a log that tells no name yet is that of the driver that was named.
        return State(begun, closed, drivers, nameless=len(logs) > len(drivers), ended=ended)

    def executors_at(self, tag: str) -> frozenset[str]:
        """The web UIs of the workers on which the job's applications had executors when they ended, by their logs."""
        self._check()
        return frozenset(place for log in _logs(self._job(tag) / EVENTS) for place in workers_of(log))

    def tags(self, prefix: str) -> list[str]:
        """The tags that begin so, of the jobs of which more is here than that they were closed not long ago."""
        self._check()
        names = (name for name in _names(self._drivers) if not name.startswith(".") and name != NAME)
        tags = (tag for name in names if (tag := _unescaped(name)).startswith(prefix))
        return sorted(tag for tag in tags if not self._is_only_closed(self._job(tag)))

    def forget(self, tag: str) -> None:
        """Remove what is here of a job that has ended for good: without a script nothing of it can begin either.

        That it was closed is forgotten later: an executor that stalled may yet begin it, with a permit that holds.
        """
        job = self._job(tag)
        if not job.is_dir() or job.is_symlink():
            return
        if not _is_closed_lately(job / SCRIPT):
            (job / SCRIPT).unlink(missing_ok=True)
            shutil.rmtree(job, ignore_errors=True)
            return
        shutil.rmtree(job / EVENTS, ignore_errors=True)
        for name in {*_names(job)} - {SCRIPT, EVENTS}:
            (job / name).unlink(missing_ok=True)

    def _is_only_closed(self, job: Path) -> bool:
        return _names(job) == [SCRIPT] and _is_closed_lately(job / SCRIPT)

    def _job(self, tag: str) -> Path:
        return self._drivers / _escaped(tag)

    def _prepare(self) -> None:
        self._check()
        self._drivers.mkdir(exist_ok=True)

    def _check(self) -> None:
        if not self._root.is_dir():
            raise EngineUnavailable(f"warehouse: {self._root} is no folder here; is it mounted?")
        if self._name is not None and _read(self._drivers / NAME) != self._name:
            raise EngineUnavailable(f"warehouse: {self._root} is not the folder here that it was; is it mounted?")


class Scripts:
    """The same as the event loop uses it: in threads, no call longer than *timeout_seconds*.

    Raises EngineUnavailable for whatever the file system refuses.
    """

    def __init__(self, root: Path, *, timeout_seconds: float, name: str | None = None) -> None:
        self._folder = Folder(root, name)
        self._root = root
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="scripts")
        self._name = name

    async def name(self) -> str:
        """What names this warehouse's folder of scripts; it never changes."""
        if self._name is None:
            self._name = await self.look(self._folder.name)
        return self._name

    async def begin(self, tag: str, sql: str) -> Path:
        """Write the job's script; answers where it is. Raises Conflict when the job was closed or begun before."""
        return await self.look(partial(self._folder.begin, tag, sql))

    async def name_driver(self, tag: str, driver_id: str) -> None:
        """Note the driver of the job for whoever looks here before its handle is recorded."""
        await self.look(partial(self._folder.name_driver, tag, driver_id))

    async def close(self, tag: str) -> None:
        """From now on no driver finds anything to run for the job."""
        await self.look(partial(self._folder.close, tag))

    async def states(self, tags: Collection[str]) -> dict[str, State]:
        """What is known of each job, by its tag."""
        return await self.look(lambda: {tag: self._folder.state(tag) for tag in tags})

    async def executors_at(self, tags: Collection[str]) -> frozenset[str]:
        """The web UIs of the workers on which these jobs' applications had executors when they ended."""
        if not tags:
            return frozenset()
        return await self.look(lambda: frozenset(place for tag in tags for place in self._folder.executors_at(tag)))

    async def tags(self, prefix: str) -> list[str]:
        """The tags that begin so, of the jobs that are remembered here."""
        return await self.look(partial(self._folder.tags, prefix))

    async def forget(self, tags: Collection[str]) -> None:
        """Remove all that is here of jobs that have ended for good."""
        for tag in tags:
            await self.look(partial(self._folder.forget, tag))

    def events(self, tag: str) -> Path:
        """Where the job's driver writes its event log."""
        return self._folder.events(tag)

    async def look(self, look: Callable[[], Told]) -> Told:
        """What a look at something in the warehouse tells."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, look)
        except TimeoutError as error:
            message = f"warehouse: {self._root} did not answer within {self._timeout_seconds:g} s"
            raise EngineUnavailable(message) from error
        except OSError as error:
            raise EngineUnavailable(f"warehouse: {error.filename or self._root}: {error.strerror}") from error

    async def aclose(self) -> None:
        """Wait for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def job_of(tag: str) -> UUID | None:
    """The job of a tag of purpose ``run``."""
    *_, job_id, purpose = tag.split(":") if tag.count(":") >= 2 else ("", "")
    try:
        return UUID(job_id) if purpose == "run" else None
    except ValueError:
        return None


def _escaped(tag: str) -> str:
    """The tag as the name of a folder, whatever is in it: Hadoop takes a colon for the end of a URL's scheme."""
    return re.sub(r"[^A-Za-z0-9.-]|^\.", lambda found: f"_{ord(found[0]):x}_", tag)


def _unescaped(name: str) -> str:
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)


def _is_closed_lately(script: Path) -> bool:
    try:
        return script.is_symlink() and time.time() - script.lstat().st_mtime < CLOSED_KEPT_SECONDS
    except FileNotFoundError:  # somebody else has just forgotten it
        return False


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  names are enough
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _logs(events: Path) -> Iterator[Path]:
    """One for each application: a file, or the folder of one that rolls."""
    return (events / name for name in _names(events) if not name.startswith("."))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
