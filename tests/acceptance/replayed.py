"""The Dockerfile's stages, carried out without Docker: the same commands, in a folder instead of the image's root."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.deployed import ROOT, Stage, in_context, stages

#: The images' own folders; whatever else a command names is the machine's.
FOLDERS = re.compile(r"(?<![\w./])/(src|opt|tmp)\b")


def replay(name: str, folder: Path) -> Path:
    """Carry out a stage, and before it those that it needs, each in a folder of its own; gives the stage's.

    What was carried out in *folder* before is not carried out again.
    """
    root = folder / name
    if root.exists():
        return root
    stage = stages()[name]
    if stage.base in stages():
        shutil.copytree(replay(stage.base, folder), root, symlinks=True, copy_function=os.link)
    else:
        for inner in ("src", "opt", "tmp"):
            (root / inner).mkdir(parents=True)
    for word, rest in stage.steps:
        if word == "COPY":
            _copy(rest.split(), root, folder)
        elif word == "RUN":
            ran = run_step(rest, root, environment_of(stage))
            assert ran.returncode == 0, ran.stdout + ran.stderr
    return root


def run_step(command: str, root: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A RUN's command, in the folder that stands for the image's root."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UV_", "VIRTUAL_ENV"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-c", FOLDERS.sub(rf"{root}/\1", command)],
        cwd=root / "src",
        env={**clean, **environment, "PATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )


def environment_of(stage: Stage) -> dict[str, str]:
    """What the commands of a stage find set, by its base and by itself."""
    inherited = environment_of(stages()[stage.base]) if stage.base in stages() else {}
    return inherited | dict(_settings([*stage.all("ENV"), *stage.all("ARG")]))


def _settings(instructions: list[str]) -> Iterator[tuple[str, str]]:
    for instruction in instructions:
        for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|(\S*))', instruction):
            yield name, quoted or bare


def _copy(words: list[str], root: Path, folder: Path) -> None:
    """COPY, of the context or of another stage."""
    *options, source, target = words
    if options:
        [stage] = [option.removeprefix("--from=") for option in options]
        shutil.copytree(replay(stage, folder) / source.strip("/"), root / target.strip("/"))
        return
    for file in in_context():
        if source in (".", str(file)):
            copied = root / "src" / file
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.unlink(missing_ok=True)
            shutil.copy2(ROOT / file, copied)
