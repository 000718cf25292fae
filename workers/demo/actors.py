"""The demo's processes: real commands of ours, started, killed, measured, and always cleaned up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STOP_WITHIN_SECONDS = 5.0
GONE_WITHIN_SECONDS = 1.0
LOOK_EVERY_SECONDS = 0.01


class Actor:
    """One process of the demo, which may be killed and started again; what it says goes to its log.

    It has a process group of its own: what it starts is measured, and ends, with it, and an interrupt at the terminal
    reaches the demo alone, which then ends everybody in order.
    """

    def __init__(self, name: str, arguments: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]):
        self.name = name
        self.log = log
        self._command = [sys.executable, "-P", "-m", *arguments]
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[Any] | None = None
        self._killed = False
        self._is_over = True  #: and so is whatever it started

    def start(self) -> None:
        """Start it, in the demo's folder, with nothing of the user's own settings."""
        self._killed = self._is_over = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own modules, by our own interpreter
                self._command,
                cwd=self._folder,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    @property
    def was_started(self) -> bool:
        """Whether it ever was."""
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL: nothing of it can say goodbye."""
        if self._process is not None:
            self._killed = True
            self._process.kill()
            self._end()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, and whatever it started; one that does not in time is killed."""
        if self._process is None:
            return
        try:
            self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            self.kill()
        self._end()

    def _end(self) -> None:
        """Once only: its number may be somebody else's afterwards."""
        if self._process is not None and not self._is_over:
            self._process.wait()
            end_group(self._process.pid)
            self._is_over = True

    def address(self) -> dict[str, Any] | None:
        """The line of its log, a JSON object, that says where it listens; None until it does."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        documents = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
        return next((document for document in documents if {"host", "port"} <= document.keys()), None)

    def unexpected_end(self) -> str | None:
        """What to say when it ended and nobody killed it."""
        if self._process is None or self._killed or self._process.poll() is None:
            return None
        said = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"{self.name} ended by itself with {self._process.returncode}: {said[-1]}"

    def cpu_seconds(self) -> float:
        """The processor time that it, and what it started, have used so far."""
        return 0.0 if self._process is None else sum(member.cpu_seconds for member in members(self._process.pid))


def stop_all(actors: Sequence[Actor]) -> None:
    """End them all, one way or the other."""
    deadline = time.monotonic() + STOP_WITHIN_SECONDS
    for actor in actors:
        actor.terminate()
    for actor in actors:
        actor.wait(deadline - time.monotonic())


# --- a process group


class Member(NamedTuple):
    """A process of a group: its state as ``ps`` has it, and its processor time, of its threads as well."""

    state: str
    cpu_seconds: float


def end_group(group: int, *, seconds: float = GONE_WITHIN_SECONDS) -> None:
    """Kill what is left of it, and see it gone; of zombies nothing is left but their numbers."""
    deadline = time.monotonic() + seconds
    while any(not member.state.startswith("Z") for member in members(group)) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(LOOK_EVERY_SECONDS)


def members(group: int) -> list[Member]:
    """Its processes, with times exact to 10 ms where there is ``/proc``; elsewhere as ``ps`` rounds them."""
    found = _members_by_proc() if Path("/proc/self/stat").exists() else _members_by_ps()
    return [member for owner, member in found if owner == group]


def _members_by_proc() -> Iterator[tuple[int, Member]]:
    ticks = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()  # proc(5): from the state on; pgrp, utime, stime
            yield int(fields[2]), Member(fields[0], (int(fields[11]) + int(fields[12])) / ticks)


def _members_by_ps() -> Iterator[tuple[int, Member]]:
    told = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,time="], check=False, capture_output=True, text=True)  # noqa: S607
    for owner, state, clock in map(str.split, told.stdout.splitlines()):
        yield int(owner), Member(state, _clock_seconds(clock))


def _clock_seconds(text: str) -> float:
    """``[hours:]minutes:seconds`` as seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
