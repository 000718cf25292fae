"""The folder that the plane shares with its Spark clusters: what jobs wrote, and what readers are shown of it.

::

    outputs/JOB_<job>/               one job's rows as Parquet; whole once _SUCCESS is in it
    outputs/SAMPLE_<job>/            the same of a sample
    outputs/ANSWER_<job>/            one row of JSON, of a job without effects: nobody is ever shown it
    datasets/ds_<id>/<number>.json   a manifest: publication <number>, of 20 digits, is this output
    samples/ds_<id>/<number>.json    the same of samples

Readers take the manifest with the highest number. Manifests appear whole, never change and stay for good, so that the
pointer only ever moves to a higher number, with no lock, however many publish at once. The outputs of the two highest
numbers are kept: readers of the last but one may still be at it. Everything here blocks.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Self
from uuid import UUID

import msgspec
from msgspec import Struct

from control_plane.errors import BadInput, EngineUnavailable
from control_plane.work import Publication

OUTPUTS = "outputs"
WHOLE = "_SUCCESS"  #: Hadoop's committers write it last
SHOWN = "_SHOWN"  #: ours, before a manifest names the output; Spark's readers skip what begins with _
OUTPUT = re.compile(r"(JOB|SAMPLE|ANSWER)_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
MANIFEST = re.compile(r"([0-9]{20})\.json")
ROOT = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
KEPT = 2
LOOKED_BACK = 16  #: in so many older publications outputs are looked for that somebody left behind
ATTEMPTS = 5


class Kind(StrEnum):
    """What an output is, as its name begins."""

    VIEW = "JOB"
    SAMPLE = "SAMPLE"
    ANSWER = "ANSWER"


READERS = {Kind.VIEW: "datasets", Kind.SAMPLE: "samples"}


class Output(NamedTuple):
    """One job's folder; its name says whose it is and what."""

    kind: Kind
    job_id: UUID

    @classmethod
    def of_name(cls, name: str) -> Self | None:
        """The output that a name in ``outputs`` is, if it is any."""
        found = OUTPUT.fullmatch(name)
        return found and cls(Kind(found[1]), UUID(found[2]))

    @property
    def name(self) -> str:
        """The folder's name in ``outputs``."""
        return f"{self.kind.value}_{self.job_id}"


class Manifest(Struct, frozen=True):
    """What a publication shows: a job's output; or a query, where somebody else than a job wrote the manifest."""

    job_id: UUID | None = None
    output: str | None = None  #: the folder, as seen from the warehouse
    sql: str | None = None


class Warehouse:
    """One folder, which must exist, under the same path for Spark, executors and cancellers.

    What is in it is made here. Symbolic links in it are refused, and names that are none of ours left alone. Raises
    EngineUnavailable where it is not as it must be, and OSError for what the file system refuses.
    """

    def __init__(self, root: Path) -> None:
        if not ROOT.fullmatch(str(root)) or {".", ".."} & set(root.parts):
            allowed = "an absolute path of letters, digits and . _ @ + -, without . and .. as names"
            raise BadInput(f"warehouse: {str(root)!r} cannot be used (allowed: {allowed})", field="warehouse")
        self.root = root

    def place(self, output: Output) -> str:
        """Where Spark writes the output; nothing may be there before."""
        return f"file://{self.folder(output)}"

    def folder(self, output: Output) -> Path:
        """The same for us."""
        return self.root / OUTPUTS / output.name

    def prepare(self) -> None:
        """See that outputs can be written and removed."""
        outputs = self._made(OUTPUTS)
        trial = outputs / f".{secrets.token_hex(8)}"
        trial.touch(exist_ok=False)
        trial.unlink()

    # --- readers

    def shown(self, kind: Kind, dataset_id: int) -> Manifest | None:
        """What readers of the dataset are shown; None before anything was published."""
        manifests = self._manifests(kind, dataset_id)
        numbers = _numbers(manifests)
        return _read(manifests, numbers[-1]) if numbers else None

    def define(self, kind: Kind, dataset_id: int, sql: str) -> None:
        """Show readers the rows of a query until a job publishes: it has the number 0, and jobs have higher numbers."""
        manifests = self._made(READERS[kind], _dataset(dataset_id))
        self._write(manifests, 0, Manifest(sql=sql))
        _sync(manifests)

    def take_answer(self, job_id: UUID) -> bytes | None:
        """The row of JSON that a job without effects wrote, which is then removed; None where there is no whole one."""
        output = Output(Kind.ANSWER, job_id)
        if not self._is_whole(output):
            return None
        answer = b"".join(part.read_bytes() for part in sorted(self._folder(output).glob("part-*.json")))
        _remove(self._folder(output))
        return answer

    # --- publishing

    def publish(self, job_id: UUID, publication: Publication) -> bool:
        """Show the job's output to readers, unless they are shown a higher number; whether its publication stands.

        Repeatable: it takes up whatever another left half-way. False for a job without a whole output. Raises
        EngineUnavailable when the number is another job's.
        """
        kind = self._published_as(job_id, publication)
        if kind is None:
            with suppress(FileNotFoundError):  # somebody else has published it, and it was superseded and removed
                self._publish_whole(job_id, publication)
            kind = self._published_as(job_id, publication)
        if kind is not None:
            self._tidy(kind, publication)
        return kind is not None

    def _published_as(self, job_id: UUID, publication: Publication) -> Kind | None:
        for kind in READERS:
            manifest = _read(self._manifests(kind, publication.dataset_id), publication.number)
            if manifest is not None and manifest.job_id != job_id:
                theirs = f"publication {publication.number} of {_dataset(publication.dataset_id)}"
                raise EngineUnavailable(f"warehouse: {theirs} is job {manifest.job_id}'s, and not job {job_id}'s")
            if manifest is not None:
                return kind
        return None

    def _publish_whole(self, job_id: UUID, publication: Publication) -> None:
        for output in (Output(kind, job_id) for kind in READERS):
            if self._is_whole(output):
                _make_durable(self._folder(output))
                _sync(self._existing(OUTPUTS))
                manifests = self._made(READERS[output.kind], _dataset(publication.dataset_id))
                self._write(manifests, publication.number, Manifest(job_id, f"{OUTPUTS}/{output.name}"))
                return

    def _write(self, manifests: Path, number: int, manifest: Manifest) -> None:
        """Whoever publishes the same at the same time writes the same."""
        draft = manifests / f"{number:020d}.{secrets.token_hex(8)}.draft"
        with draft.open("xb") as out:
            out.write(msgspec.json.encode(manifest, order="deterministic"))
            out.flush()
            os.fsync(out.fileno())
        try:
            draft.replace(manifests / _file(number))
        except FileNotFoundError:  # another has published it, and cleared this away
            if _read(manifests, number) is None:
                raise

    def _tidy(self, kind: Kind, publication: Publication) -> None:
        """Remove the outputs that are superseded for good, and the drafts of others who died at this publication."""
        manifests = self._manifests(kind, publication.dataset_id)
        _sync(manifests)  # whoever published it may have died before it was on the disk
        numbers = _numbers(manifests)
        superseded = set(numbers[:-KEPT][-LOOKED_BACK:]) | ({publication.number} & set(numbers[:-KEPT]))
        for number in sorted(superseded):
            manifest = _read(manifests, number)
            if manifest is not None and manifest.job_id is not None:
                with suppress(OSError):  # what stays now goes with a later publication
                    _remove(self._folder(Output(kind, manifest.job_id)))
        for draft in manifests.glob(f"{publication.number:020d}.*.draft"):
            draft.unlink(missing_ok=True)

    # --- clearing away

    def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader was ever shown."""
        return [output.job_id for output in self._outputs() if not self._is_shown(output)]

    def discard(self, job_id: UUID) -> tuple[str, ...]:
        """Remove what the job wrote and no reader was shown; answers what was there, and is gone or going.

        Only for a job that has ended. A task of it may end later, and write anew what is then removed the next time.
        """
        mine = [output for output in (Output(kind, job_id) for kind in Kind) if _is_folder(self._folder(output))]
        doomed = [self._folder(output) for output in mine if not self._is_shown(output)]
        for folder in doomed:
            _remove(folder)
        return tuple(str(folder) for folder in doomed)

    # --- what is there

    def _existing(self, *names: str) -> Path:
        """A folder of ours that may not exist; never by way of a symbolic link."""
        if not self.root.is_dir():
            raise EngineUnavailable(f"warehouse: {self.root} is no folder here; is it mounted?")
        path = self.root
        for name in names:
            path /= name
            if path.is_symlink():
                raise EngineUnavailable(f"warehouse: {path} is a symbolic link, and none may be there")
        return path

    def _folder(self, output: Output) -> Path:
        return self._existing(OUTPUTS) / output.name

    def _made(self, *names: str) -> Path:
        path = self._existing(*names)
        for parent in [*reversed(path.relative_to(self.root).parents), path.relative_to(self.root)][1:]:
            if not (self.root / parent).is_dir():
                (self.root / parent).mkdir(exist_ok=True)
                _sync((self.root / parent).parent)
        return path

    def _manifests(self, kind: Kind, dataset_id: int) -> Path:
        return self._existing(READERS[kind], _dataset(dataset_id))

    def _outputs(self) -> list[Output]:
        outputs = self._existing(OUTPUTS)
        try:
            names = [entry.name for entry in os.scandir(outputs) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        found = (Output.of_name(name) for name in sorted(names))
        return [output for output in found if output is not None]

    def _is_whole(self, output: Output) -> bool:
        return _is_folder(self._folder(output)) and _is_file(self._folder(output) / WHOLE)

    def _is_shown(self, output: Output) -> bool:
        return _is_file(self._folder(output) / SHOWN)


def _dataset(dataset_id: int) -> str:
    return f"ds_{dataset_id:d}"


def _file(number: int) -> str:
    return f"{number:020d}.json"


def _numbers(manifests: Path) -> list[int]:
    try:
        found = (MANIFEST.fullmatch(name) for name in os.listdir(manifests))  # noqa: PTH208  names are enough
        return sorted(int(match[1]) for match in found if match)
    except FileNotFoundError:
        return []


def _read(manifests: Path, number: int) -> Manifest | None:
    try:
        return msgspec.json.decode((manifests / _file(number)).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"warehouse: {manifests / _file(number)} is no manifest: {error}") from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _files(folder: Path) -> Iterator[Path]:
    for path, _, names in os.walk(folder):
        yield from (Path(path, name) for name in names)
        yield Path(path)


def _make_durable(folder: Path) -> None:
    """Spark leaves it to the system when its files reach the disk; what is published is to outlast a power cut."""
    (folder / SHOWN).touch()
    for path in _files(folder):
        if not path.is_symlink():
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """What is half removed is not whole any more, for whoever comes upon it. It may be written to meanwhile."""
    for attempt in range(ATTEMPTS):
        try:
            if not _is_folder(folder):
                return
            (folder / WHOLE).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == ATTEMPTS - 1:
                raise
