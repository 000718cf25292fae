"""What all processes of one test run share: a folder, in which a costly thing is made once."""

import fcntl
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MADE = "made"


@dataclass(frozen=True)
class SharedFolder:
    path: Path

    @classmethod
    def create(cls) -> Self:
        """Make a new one, for a new run."""
        path = Path(tempfile.mkdtemp(prefix="countermand-tests-"))
        path.chmod(0o711)  # Postgres may run as another user, which has to pass through
        return cls(path)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Call *make* for the path *name*, once in the run; the others wait for it, and fail if it failed."""
        path = self.path / name
        with (self.path / f"{name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            outcome = lock.read()
            if not outcome:
                lock.write(outcome := try_to(make, path))
        if outcome != MADE:
            raise RuntimeError(outcome)
        return path

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def try_to(make: Callable[[Path], object], path: Path) -> str:
    try:
        make(path)
    except Exception as error:  # noqa: BLE001 (kept for every test that needs it; each fails with it)
        return f"{path.name} cannot be had for the tests: {error!r}"
    return MADE
