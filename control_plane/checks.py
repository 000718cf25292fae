"""What no database can hold is refused before it gets there."""

import math
from collections.abc import Iterator

from control_plane.errors import BadInput

LARGEST = 2**63 - 1  #: what a database's integer holds


def check_range(field: str, value: int | None, least: int, most: int) -> None:
    """Raise BadInput, naming the field, for a number out of its range."""
    if value is not None and not least <= value <= most:
        raise BadInput(f"{field}: a number from {least} to {most} is needed, not {value}", field=field)


def check_kept(field: str, value: object) -> None:
    """Raise BadInput, naming the field, for what no database holds: NUL or half a character, and numbers like NaN."""
    if _is_deeper(value, DEEPEST):
        raise BadInput(f"{field}: it is nested deeper than {DEEPEST} levels", field=field)
    for leaf in _leaves(value):
        if isinstance(leaf, str) and ("\0" in leaf or leaf.encode(errors="ignore").decode() != leaf):
            raise BadInput(f"{field}: text with a NUL or half a character cannot be kept", field=field)
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise BadInput(f"{field}: JSON has no number {leaf}", field=field)


DEEPEST = 100  #: of a document; somewhere above it, encoders and databases give up


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_leaves(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
