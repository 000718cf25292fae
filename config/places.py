"""On which line of a TOML file a setting stands.

`tomllib` keeps no lines, but knows the syntax: a file that it accepts is split into its statements, each of which is
the fewest lines that it accepts, and what a statement sets is what it reads in it.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]


class Places:
    """Where the settings of a file stand; its text has to be TOML."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}  #: how many tables of an array there are so far
        table: Path = ()
        for line, statement, document in statements(text):
            if statement.startswith("["):
                table = self._open(document, line, is_array=statement.startswith("[["))
            else:
                self._note(table, document, line)

    def line_of(self, place: Sequence[str | int]) -> int | None:
        """The line where the setting begins or, where the file lacks it, the innermost section that would have it."""
        found = (self._lines.get(tuple(place[:depth])) for depth in range(len(place), 0, -1))
        return next((line for line in found if line is not None), None)

    def has(self, place: Sequence[str | int]) -> bool:
        """Whether the file sets it."""
        return tuple(place) in self._lines

    def _open(self, document: Any, line: int, *, is_array: bool) -> Path:
        """The table that a header begins, as the path of what follows."""
        table: Path = ()
        for key in header_keys(document):
            table = (*self._latest(table), key)
            self._lines.setdefault(table, line)
        if is_array:
            self._arrays[table] = self._arrays.get(table, -1) + 1
            self._lines[self._latest(table)] = line
        else:
            self._lines[table] = line
        return self._latest(table)

    def _latest(self, table: Path) -> Path:
        """The table itself, or the last one so far of an array of tables."""
        return (*table, self._arrays[table]) if table in self._arrays else table

    def _note(self, above: Path, value: object, line: int) -> None:
        """Note the line of all that a value holds."""
        for key, inner in children(value):
            self._lines.setdefault((*above, key), line)
            self._note((*above, key), inner, line)


def header_keys(document: Any) -> Iterator[str]:
    """The keys of a header, as it is read alone: tables of one key each, in an array or not."""
    while document := document[0] if isinstance(document, list) else document:
        [(key, document)] = document.items()
        yield key


def children(value: object) -> Iterator[tuple[str | int, object]]:
    """What a table or an array holds."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each statement of a TOML text: the number of its first line, its text, and what it alone says."""
    first, lines = 1, list[str]()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        first = first if lines else number
        lines.append(line)
        statement = "\n".join(lines)
        try:
            document = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        lines.clear()
        if document:  # neither blank nor a comment
            yield first, statement.strip(), document
