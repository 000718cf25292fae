"""The page about commands tells the truth: it names every command, every exit code, and what says where users' go."""

import re
from collections.abc import Iterator
from pathlib import Path

import typer

from config.reload import LIVE
from config.settings import Profile, variable_of
from control_plane.errors import ExitCode
from workers.cli import build_app

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()
INTERRUPTED = 130


def commands() -> Iterator[str]:
    """Every command, as it is typed."""
    for name, command in typer.main.get_group(build_app()).commands.items():
        inner = getattr(command, "commands", None)
        yield from (f"{name} {sub}" for sub in inner) if inner else (name,)


def test_every_command_is_on_the_page() -> None:
    told = re.findall(r"`countermand ([a-z-]+(?: [a-z][a-z-]*)?)", PAGE)

    assert [command for command in commands() if command not in told] == []


def test_every_exit_code_is_on_the_page_by_its_name() -> None:
    told = {int(code): name for code, name in re.findall(r"^\| (\d+) \| ([a-z ]+) \|", PAGE, flags=re.MULTILINE)}

    expected = {code.value: code.name.lower().replace("_", " ") for code in ExitCode}
    assert told == expected | {INTERRUPTED: "interrupted"}


def test_every_way_to_say_where_the_control_plane_is_stands_on_the_page() -> None:
    names = [*Profile.model_fields, "profile"]

    assert [name for name in names if f"`{variable_of(name)}`" not in PAGE or f"`{name}`" not in PAGE] == []


def test_every_setting_that_changes_while_a_process_runs_is_on_the_page() -> None:
    part = PAGE.partition("### Settings that change while a process runs")[2].partition("\n## ")[0]

    assert {place[-1] for place in LIVE} == set(re.findall(r"`(\w+)`", part))
