"""The units of ``deploy/systemd``: systemd and our own commands take what they say."""

import os
import re
from pathlib import Path

import pytest

from config.names import field_names, variable_of
from config.settings import Settings, load_settings
from tests.deployed import UNITS, Unit, systemds_findings, variables

FILES = sorted(UNITS.glob("*.service"))
PROCESSES = [file for file in FILES if file.stem != "countermand-control-plane"]
#: What an environment file may set beside our settings.
OTHERS = {"DATA_PLANE", "HTTPS_PROXY", "NO_PROXY", "PGPASSWORD"}

each_unit = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
each_process = pytest.mark.parametrize("file", PROCESSES, ids=lambda file: file.stem)


def environment_file(file: Path) -> Path:
    return UNITS / f"{file.stem}.env"


def as_seconds(span: str) -> float:
    """A time span, of those that our units write."""
    return float(span.removesuffix("min")) * 60 if span.endswith("min") else float(span)


def test_there_is_a_unit_for_each_long_running_process() -> None:
    assert [file.stem for file in FILES] == ["countermand-control-plane", "countermand-executor", "countermand-worker"]


@each_unit
def test_a_unit_is_what_systemd_and_our_commands_take(file: Path, tmp_path: Path) -> None:
    assert [*Unit.read(file).faults()] == []
    assert [*systemds_findings(file, tmp_path)] == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("ProtectSystem=", "ProtectSytem=", "[Service] has no ProtectSytem"),
        ("countermand worker", "countermand work", "there is no command 'work' among"),
        ("countermand worker", "countermand worker --speed 3", "No such option: --speed"),
        ("/worker.env", "/workers.env", "there is no /etc/countermand/workers.env to install"),
        ("/usr/local/bin/countermand worker", "/usr/bin/countermand worker", "is not /usr/local/bin/countermand"),
    ],
)
def test_a_unit_with_a_slip_is_found_out(tmp_path: Path, before: str, after: str, fault: str) -> None:
    slipped = tmp_path / "countermand-worker.service"
    slipped.write_text((UNITS / slipped.name).read_text().replace(before, after))

    [found] = Unit.read(slipped).faults()

    assert fault in found


@each_unit
def test_an_environment_file_sets_what_there_is_to_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {variable_of(name) for name in field_names(Settings)} | {"COUNTERMAND_CONFIG"} | OTHERS
    given = variables(environment_file(file))
    for name in [*os.environ]:
        if name.startswith("COUNTERMAND_"):
            monkeypatch.delenv(name)

    for name in given.keys() - {"COUNTERMAND_CONFIG"}:
        monkeypatch.setenv(name, given[name])

    assert [name for name in given if name not in known] == []
    assert load_settings().log_format == "json"


@each_unit
def test_a_unit_waits_for_longer_than_its_process_drains(file: Path) -> None:
    settings = load_settings()
    drains = {"worker": settings.worker.drain_seconds, "executor": settings.executor.drain_seconds}

    patience = as_seconds(Unit.read(file).one("TimeoutStopSec"))

    assert patience >= drains.get(file.stem.removeprefix("countermand-"), 30.0) + 10


@each_unit
def test_every_unit_is_hardened_alike(file: Path) -> None:
    unit, other = Unit.read(file), Unit.read(FILES[0])

    def hardening(unit: Unit) -> list[str]:
        own = re.compile(
            "Protect|Restrict[A-Z]|Private|SystemCall|Capabilit|NoNew|Memory|Lock|Proc|Device|UMask|Remove"
        )
        return [f"{line.name}={line.value}" for line in unit.lines if own.match(line.name)]

    assert hardening(unit) == hardening(other)
    assert "NoNewPrivileges=yes" in hardening(unit)
    assert unit.one("User") != "root"


@each_process
def test_a_process_beside_an_engine_has_its_token_by_a_credential_and_nothing_of_the_database(file: Path) -> None:
    unit, given = Unit.read(file), variables(environment_file(file))
    process = file.stem.removeprefix("countermand-")

    assert unit.all("LoadCredential") == [f"token:/etc/countermand/{process}/token"]
    assert unit.all("Environment") == ["COUNTERMAND_TOKEN_FILE=%d/token"]
    assert given["COUNTERMAND_CONTROL_PLANE"].startswith("https://")
    assert not [name for name in given if "DATABASE" in name or name.startswith("PG")]
    assert unit.one("User") != Unit.read(UNITS / "countermand-control-plane.service").one("User")


@each_process
def test_a_reload_is_a_hangup(file: Path) -> None:
    assert Unit.read(file).all("ExecReload") == ["/bin/kill -HUP $MAINPID"]


def test_the_control_plane_brings_its_database_up_to_date_before_it_serves() -> None:
    unit = Unit.read(UNITS / "countermand-control-plane.service")

    assert unit.commands() == [["db", "upgrade"], ["serve"]]
