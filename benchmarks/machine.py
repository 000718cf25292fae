"""Whether the machine ran at its own speed while something was measured."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self


class Spell(NamedTuple):
    """A time in which the machine was slow, by `time.perf_counter`."""

    began_at: float
    ended_at: float

    def touches(self, began_at: float, ended_at: float) -> bool:
        """Whether what went on from then till then can have been late because of it.

        At half the load a server has caught up after as long again.
        """
        return began_at <= 2 * self.ended_at - self.began_at and ended_at >= self.began_at


class Pulse:
    """``benchmarks.processes.pulse``, beside what is measured; it takes about two percent of a core."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.processes.pulse"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Self]:
        """Feel it for as long as is needed."""
        pulse = cls()
        with pulse._process as process:
            try:
                yield pulse
            finally:
                process.kill()

    def stop(self) -> list[Spell]:
        """The spells in which the machine was slow."""
        told, _ = self._process.communicate()
        return [Spell(*spell) for spell in json.loads(told)]
