"""The demo's processes: real commands of ours, started, killed, measured, and always cleaned up."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STOP_WITHIN_SECONDS = 5.0


class Actor:
    """One process of the demo, which may be killed and started again; what it says goes to its log."""

    def __init__(self, name: str, arguments: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]):
        self.name = name
        self.log = log
        self._command = [sys.executable, "-P", "-m", *arguments]
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[Any] | None = None
        self._killed = False

    def start(self) -> None:
        """Start it, in the demo's folder, with nothing of the user's own settings."""
        self._killed = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own modules, by our own interpreter
                self._command,
                cwd=self._folder,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL: nothing of it can say goodbye."""
        if self._process is not None:
            self._killed = True
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; one that does not in time is killed."""
        if self._process is None:
            return
        try:
            self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            self.kill()

    def told(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of this event."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        documents = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [document for document in documents if document["event"] == event]

    def unexpected_end(self) -> str | None:
        """What to say when it ended and nobody killed it."""
        if self._process is None or self._killed or self._process.poll() is None:
            return None
        said = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"{self.name} ended by itself with {self._process.returncode}: {said[-1]}"

    def cpu_seconds(self) -> float:
        """The processor time that it has used so far."""
        return 0.0 if self._process is None else cpu_seconds(self._process.pid)


def stop_all(actors: Sequence[Actor]) -> None:
    """End them all, one way or the other."""
    deadline = time.monotonic() + STOP_WITHIN_SECONDS
    for actor in actors:
        actor.terminate()
    for actor in actors:
        actor.wait(deadline - time.monotonic())


def cpu_seconds(pid: int) -> float:
    """A process's processor time, exact to 10 ms where there is ``/proc``; elsewhere as ``ps`` rounds it."""
    with contextlib.suppress(FileNotFoundError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime, stime
    told = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], check=False, capture_output=True, text=True)  # noqa: S603, S607
    return _clock_seconds(told.stdout.strip())


def _clock_seconds(text: str) -> float:
    """``[hours:]minutes:seconds`` as seconds; nothing told is nothing used."""
    seconds = 0.0
    for part in text.split(":") if text else ():
        seconds = seconds * 60 + float(part)
    return seconds
