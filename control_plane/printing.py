"""What commands print: a JSON document, a table, the fields of one thing, a sentence."""

import json
import sys
import unicodedata
from datetime import datetime
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from control_plane.errors import ExitCode

_TABLE_WIDTH = 240
_NARROWEST = 18


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), indent=2) + "\n")


def print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A line for each row, terminal or not: a narrow terminal continues it in its next line, and no word is broken."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column != "name", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(shown(str(cell))) for cell in row))
    Console(width=_TABLE_WIDTH).print(table)


def print_fields(document: Any) -> None:
    """A line for each field that holds anything; what one nests is indented below its beginning."""
    fields = msgspec.to_builtins(document)
    width = max(_NARROWEST, *map(len, fields))
    for name, value in fields.items():
        if value not in (None, [], {}):
            text = shown(value) if isinstance(value, str) else json.dumps(value, indent=2)
            typer.echo(f"{name:{width}} " + text.replace("\n", "\n" + " " * (width + 1)))


def as_moment(moment: datetime | None) -> str:
    """As every listing shows it."""
    return f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else ""


def fail(message: str, code: ExitCode) -> NoReturn:
    """End the command with a sentence on stderr, or with a line for each of several."""
    tell(message)
    raise SystemExit(code)


def tell(message: str) -> None:
    """A sentence on stderr, each of its lines marked as ours."""
    for line in shown(message).split("\n"):
        typer.echo(f"countermand: {line}", err=True)


def shown(text: str) -> str:
    """Somebody else's words without what a terminal would obey."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) == "Cc" and letter not in "\n\t" else letter
        for letter in text
    )
