"""Every event in the code stands on the page for operators, with its level and its fields."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "events.md"
PACKAGES = ("adapters", "config", "control_plane", "workers")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


class Event(NamedTuple):
    name: str
    level: str
    fields: frozenset[str]
    where: str


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of a logging method of whatever is called ``log``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            holder = node.func.value
            if isinstance(holder, ast.Name) and holder.id == "log":
                yield node


def emitted() -> Iterator[Event]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for call in calls(ast.parse(file.read_text())):
                where = f"{file.relative_to(ROOT)}:{call.lineno}"
                [name] = call.args
                assert isinstance(name, ast.Constant), f"{where}: an event's name is a constant"
                assert isinstance(call.func, ast.Attribute)
                level = "error" if call.func.attr == "exception" else call.func.attr
                fields = frozenset(keyword.arg for keyword in call.keywords if keyword.arg) - {"each"}
                yield Event(str(name.value), level, fields, where)


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """By event: its levels and its fields."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| ([^|]*) \|", PAGE.read_text(), flags=re.MULTILINE)
    return {name: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields))) for name, levels, fields in rows}


def test_every_event_that_is_emitted_is_documented_with_its_level_and_fields() -> None:
    page = documented()

    missing = [
        event
        for event in emitted()
        if event.name not in page or event.level not in page[event.name][0] or event.fields - page[event.name][1]
    ]

    assert missing == []


def test_the_page_names_no_event_that_is_never_emitted() -> None:
    assert set(documented()) == {event.name for event in emitted()}


def test_events_are_facts_in_snake_case() -> None:
    assert [event for event in emitted() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", event.name)] == []
