"""``countermand demo`` as a process, in a temporary folder of its own, which it has to leave as it found it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psutil

from tests.acceptance.site import ROOT, until

OURS = (sys.executable, "-P", "-m", "workers")


class Demo:
    """One demo; *folder* is its temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output"
        self._before = {"output"}
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def in_own_folder(cls) -> Iterator[Self]:
        """One whose processes and folder are cleared away with the test."""
        made = cls(Path(tempfile.mkdtemp(prefix="cm-")))
        try:
            yield made
        finally:
            made.close()

    def start(
        self,
        *arguments: str,
        command: tuple[str | Path, ...] = OURS,
        stdout: int | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes]:
        """Start it; unless *stdout* is given, what it prints goes to :attr:`output`."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = (
            clean
            | ({"PYTHONPATH": str(ROOT)} if command is OURS else {})
            | {"TMPDIR": str(self.folder), "COLUMNS": "150"}
        )
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "demo", *arguments],
                cwd=self.folder,
                env=environment
                | {"TERM": "xterm-256color", "COUNTERMAND_DATABASE_URL": "sqlite:///of-somebody-else.db"}
                | {**settings},
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=subprocess.PIPE,
            )
        return self._process

    def until_printed(self, text: str, *, seconds: float = 90) -> None:
        until(lambda: text in self.output.read_text(), seconds=seconds, what=repr(text))

    def children(self) -> list[psutil.Process]:
        """What still works in its folder, whoever's child it is by now."""
        return [process for process in psutil.process_iter(["cwd"]) if self._is_inside(process.info["cwd"])]

    def victim(self) -> psutil.Process | None:
        """Its canceller."""
        for process in self.children():
            with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                if process.cmdline()[-1:] == ["worker"]:
                    return process
        return None

    def _is_inside(self, cwd: str | None) -> bool:
        return cwd is not None and Path(cwd).is_relative_to(self.folder)

    def leavings(self) -> set[str]:
        """What it left in the temporary folder."""
        return {path.name for path in self.folder.iterdir()} - self._before

    def close(self) -> None:
        for process in self.children():
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def interrupt(process: subprocess.Popen[bytes], number: int) -> tuple[int, str]:
    """Signal it, and answer how it ended and what it said."""
    process.send_signal(number)
    _, said = process.communicate(timeout=90)
    return process.returncode, said.decode()


def job_of(told: dict[str, Any], name: str) -> dict[str, Any]:
    (job,) = (job for job in told["jobs"] if job["name"] == name)
    assert isinstance(job, dict)
    return job


def receipt_of(told: dict[str, Any], name: str) -> dict[str, Any]:
    receipt: dict[str, Any] = job_of(told, name)["receipt"]
    return receipt


def fates_of(told: dict[str, Any]) -> dict[str, tuple[str, str, str | None]]:
    return {job["name"]: (job["type"], job["state"], job["outcome"]) for job in told["jobs"]}
