"""How settings are called: in the file, in the environment, and what somebody may have meant."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

PREFIX = "COUNTERMAND_"
#: Stands in a name for what the deployment chooses: a plane, a profile.
ANY = "*"

Place = Sequence[str | int]


def field_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting's dotted name, the sections' own included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section, inner in sections(field.annotation):
            if inner:
                yield f"{prefix}{name}.{inner}"
            yield from field_names(section, ".".join(filter(None, (prefix + name, inner))) + ".")


def sections(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """The section that a type stands for, if any; with `ANY` where it stands for several, each by a name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
    for inner in get_args(annotation):
        for section, _ in sections(inner):
            yield section, ANY if annotation.__class__.__name__ == "GenericAlias" else ""


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.replace(".", "__").upper()


def dotted(place: Place) -> str:
    """The setting at the place as a TOML file would call it."""
    return ".".join(key if re.fullmatch(r"[\w-]+", key := str(part)) else _quoted(key) for part in place)


def _quoted(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def filled(names: Iterator[str], parts: Sequence[str]) -> Iterator[str]:
    """The names, what a deployment chose put in from those parts; without those for which there is none."""
    for name in names:
        told = name.split(".")
        if all(part != ANY or depth < len(parts) for depth, part in enumerate(told)):
            yield ".".join(parts[depth] if part == ANY else part for depth, part in enumerate(told))


def suggest(model: type[BaseModel], place: Place) -> str:
    """The setting that was probably meant, one of its section before others, or else those that are there."""
    parts = [dotted([part]) for part in place]
    section, name = ".".join(parts[:-1]), ".".join(parts)
    known = list(filled(field_names(model), parts))
    beside = {sibling.rpartition(".")[2]: sibling for sibling in known if sibling.rpartition(".")[0] == section}
    if near := difflib.get_close_matches(parts[-1], beside, n=1, cutoff=0.7):
        return f"did you mean {beside[near[0]]}?"
    elsewhere = [other for other in known if other not in beside.values() and not name.startswith(f"{other}.")]
    if near := difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.7):
        return f"did you mean {near[0]}?"
    return f"allowed are {', '.join(beside.values())}."
