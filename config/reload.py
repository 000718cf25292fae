"""Settings read anew by a process that runs: limits and the log's level count at once, all else from its next start."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from config.names import ANY, Place, dotted
from config.settings import Settings, load_settings

#: What counts at once.
LIVE = frozenset(
    {
        ("log_level",),
        ("worker", "batch_size"),
        ("worker", "batches_in_flight"),
        ("worker", "drain_seconds"),
        ("worker", "max_in_flight"),
        ("worker", "stops_per_second"),
        ("worker", "planes", ANY, "max_in_flight"),
        ("worker", "planes", ANY, "stops_per_second"),
        ("executor", "drain_seconds"),
        ("executor", "slots"),
    }
)


class Reloaded(NamedTuple):
    """The settings that count from now on, and the names of those in which they differ from what was read."""

    settings: Settings
    changed: tuple[str, ...]  #: count from now on
    at_restart: tuple[str, ...]  #: do not count before the next start, at this reload as at later ones


def reload_settings(previous: Settings, **overrides: Any) -> Reloaded:
    """Read the file that *previous* came from anew, with the same *overrides*; the next time, give what this answers.

    Raises SettingsError as `load_settings` does, also where the file has gone; then nothing has changed.
    """
    read = load_settings(previous.file.path, **overrides)
    places = list(differences(previous, read))
    return Reloaded(
        adopted(previous, read),
        tuple(dotted(place) for place in places if is_live(place)),
        tuple(dotted(place) for place in places if not is_live(place)),
    )


def is_live(place: Place) -> bool:
    """Whether the setting counts at once."""
    return tuple(place) in LIVE or (*place[:2], ANY, *place[3:]) in LIVE


def differences(old: object, new: object, place: tuple[str, ...] = ()) -> Iterator[Place]:
    """Each setting that is not what it was; a section that is new, or gone, as a whole."""
    before, after = inside(old), inside(new)
    if before is None or after is None:
        if old != new:
            yield place
        return
    for name in [*before, *(name for name in after if name not in before)]:
        yield from differences(before.get(name), after.get(name), (*place, name))


def inside(value: object) -> Mapping[str, Any] | None:
    """What is in a section, or the sections that have names; None for a setting."""
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping) and all(isinstance(inner, BaseModel) for inner in value.values()):
        return value
    return None


def adopted(old: Any, new: Any, place: tuple[str, ...] = ()) -> Any:
    """What was, with what counts at once as it is now."""
    before, after = inside(old), inside(new)
    if before is None or after is None:
        return new if is_live(place) else old
    kept = {name: adopted(value, after[name], (*place, name)) for name, value in before.items() if name in after}
    return old.model_copy(update=kept) if isinstance(old, BaseModel) else {**before, **kept}
