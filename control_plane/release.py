"""Which release this is, and with which others it can be spoken."""

from functools import lru_cache
from importlib.metadata import version


@lru_cache
def release() -> str:
    """Countermand's version, as it was installed."""
    return version("countermand")


def speaks_with(ours: str, theirs: str) -> bool:
    """Whether processes of two releases understand each other: by Semantic Versioning, those of one major version.

    Before 1.0.0 each minor version counts as one.
    """
    return _line(ours) == _line(theirs)


def _line(release: str) -> tuple[str, ...]:
    major, minor, *_ = [*release.split("."), ""]
    return (major, minor) if major == "0" else (major,)
