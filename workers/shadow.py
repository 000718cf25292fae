"""Countermand's packages have generic names; this says when another installed package took one of them.

Imports the standard library only: it has to work where `config` is somebody else's.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("adapters", "config", "control_plane", "workers")
OUR_FOLDER = Path(__file__).resolve().parent.parent


def describe_shadowing() -> str | None:
    """Say in one sentence which package is not ours, or nothing when all lie beside this one. Imports none of them."""
    for name in PACKAGES:
        found = find_package(name)
        if found is None:
            return f"Countermand's package {name!r} is missing in {OUR_FOLDER}: install Countermand anew."
        if found != OUR_FOLDER / name:
            return (
                f"The package {name!r} in {found.parent} shadows Countermand's own in {OUR_FOLDER}: "
                "install Countermand into an environment of its own, for example with pipx."
            )
    return None


def find_package(name: str) -> Path | None:
    """Where an import of *name* would look: a package's folder, a module's file, or a namespace's first folder."""
    spec = PathFinder.find_spec(name, sys.path)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None
