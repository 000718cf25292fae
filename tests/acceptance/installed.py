"""The wheel, built and installed as users do it, for tests of what they get."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *command* in *folder*, where nothing but the environment's own packages can be imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("COUNTERMAND_", "PYTHON"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**clean, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )


def build_wheel(target: Path) -> None:
    """Build the source distribution in *target*, and the wheel from it: what that one lacks, this one lacks."""
    target.mkdir()
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, ROOT, folder=target)
    assert built.returncode == 0, built.stdout + built.stderr


def locked_versions() -> Iterable[str]:
    """The lock file as constraints: without the hashes, which the wheel that was just built cannot be in."""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"\w", line):
            yield line.removesuffix("\\").strip()


def make_environment(folder: Path, wheel: Path, *extras: str) -> None:
    """Make an environment in *folder*, and install the wheel with *extras* into it."""
    venv.create(folder, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(locked_versions()))
    wanted = f"countermand[{','.join(extras)}] @ {wheel.as_uri()}" if extras else f"countermand @ {wheel.as_uri()}"
    installed = run(
        *(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--constraint", constraints, wanted),
        folder=folder,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
