"""What users install: the wheel, in an environment of its own, far from the source tree."""

import re
import tomllib
import zipfile
from contextlib import closing
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from control_plane.errors import ExitCode
from control_plane.intake import Intake, NewPlane
from control_plane.migrations import upgrade
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.store import Store
from tests.acceptance.installed import ROOT, make_environment, run
from tests.shared import SharedFolder

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"countermand-{VERSION}.dist-info/METADATA").decode())


@pytest.fixture(scope="session")
def remote(wheel: Path, shared: SharedFolder) -> Path:
    """The commands of an environment for a remote worker."""
    return shared.once("remote", lambda folder: make_environment(folder, wheel, "worker")) / "bin"


@pytest.fixture(scope="session")
def bare(wheel: Path, shared: SharedFolder) -> Path:
    """The commands of an environment for users: no extra at all."""
    return shared.once("bare", lambda folder: make_environment(folder, wheel)) / "bin"


def test_the_wheel_holds_the_four_packages_and_what_they_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    tops = {name.partition("/")[0] for name in names}
    assert tops == {"adapters", "config", "control_plane", "workers", f"countermand-{VERSION}.dist-info"}
    assert "config/countermand.example.toml" in names
    assert "workers/demo/materialize_view.json" in names
    assert {"control_plane/api/assets/docs.html", "control_plane/api/assets/swagger-ui/swagger-ui-bundle.js"} <= names
    assert any(name.startswith("control_plane/migrations/versions/") for name in names)
    assert f"countermand-{VERSION}.dist-info/licenses/LICENSE" in names


def test_a_remote_worker_is_asked_to_install_neither_a_store_nor_a_web_framework(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])

    assert metadata.get_all("Provides-Extra") == ["embedded", "server", "snowflake", "spark", "worker"]
    for name in ("alembic", "psycopg", "sqlalchemy"):
        assert [r for r in requirements if r.startswith(name)] == [
            r for r in requirements if r.startswith(name) and r.endswith("extra == 'server'")
        ]
    assert not [r for r in requirements if r.startswith(("litestar", "starlette")) and "extra == 'worker'" in r]


def test_the_command_tells_its_version(full: Path, tmp_path: Path) -> None:
    told = run(full / "countermand", "--version", folder=tmp_path)

    assert told.returncode == 0, told.stderr
    assert VERSION in told.stdout


def test_the_command_tells_what_it_can_do(full: Path, tmp_path: Path) -> None:
    told = run(full / "countermand", "--help", folder=tmp_path, COLUMNS="120")

    assert told.returncode == 0, told.stderr
    for command in ("db", "demo", "executor", "jobs", "planes", "worker"):
        assert re.search(rf"^\W*{command}\b", told.stdout, re.MULTILINE), told.stdout


def test_the_installed_command_migrates_a_database(full: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"

    migrated = run(full / "countermand", "db", "upgrade", folder=tmp_path, COUNTERMAND_DATABASE_URL=url)
    listed = run(full / "countermand", "tokens", "list", "--json", folder=tmp_path, COUNTERMAND_DATABASE_URL=url)

    assert migrated.returncode == 0, migrated.stderr
    assert listed.returncode == 0, listed.stderr


def test_a_remote_workers_environment_runs_the_command(remote: Path, tmp_path: Path) -> None:
    told = run(remote / "countermand", "--version", folder=tmp_path)
    helped = run(remote / "countermand", "worker", "--help", folder=tmp_path)
    absent = run(remote / "python", "-c", "import sqlalchemy", folder=tmp_path)

    assert told.returncode == 0, told.stderr
    assert helped.returncode == 0, helped.stderr
    assert "ModuleNotFoundError" in absent.stderr


def test_users_commands_need_none_of_the_extras(bare: Path, tmp_path: Path) -> None:
    listed = run(bare / "countermand", "jobs", "list", folder=tmp_path, COUNTERMAND_URL="http://127.0.0.1:1")
    refused = run(bare / "countermand", "tokens", "list", folder=tmp_path)

    assert listed.returncode == ExitCode.UNAUTHENTICATED, listed.stderr
    assert refused.returncode == ExitCode.REFUSED
    assert "countermand[server]" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("db", "upgrade"), "countermand[server]"),
        (("worker",), "countermand[server,worker]"),
        (("executor", "--data-plane", "p", "--data-folder", "f"), "countermand[server,worker,embedded]"),
        (("demo",), "countermand[server,worker,embedded]"),
    ],
)
def test_a_command_whose_extras_are_missing_names_them_all(
    remote: Path, tmp_path: Path, arguments: tuple[str, ...], needed: str
) -> None:
    refused = run(remote / "countermand", *arguments, folder=tmp_path)

    assert refused.returncode == ExitCode.REFUSED
    assert "Traceback" not in refused.stderr
    assert needed in refused.stderr


@pytest.mark.parametrize(
    "arguments", [("worker",), ("executor", "--data-plane", "p", "--data-folder", "f"), ("planes", "check")]
)
def test_a_planes_process_without_the_store_is_told_that_a_control_plane_would_do(
    remote: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    refused = run(remote / "countermand", *arguments, folder=tmp_path)

    assert refused.returncode == ExitCode.REFUSED
    assert "--control-plane or COUNTERMAND_CONTROL_PLANE" in refused.stderr


def test_planes_on_snowflake_name_the_extra_that_they_need(full: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    upgrade(url)
    with closing(Store(url)) as store:
        Intake(store, Policy()).create_plane(NewPlane("snow", Platform.SNOWFLAKE))
    settings = {"COUNTERMAND_DATABASE_URL": url, "SNOWFLAKE_ACCOUNT": "o-a", "SNOWFLAKE_DATABASE": "d"}

    worker = run(full / "countermand", "worker", "--data-plane", "snow", folder=tmp_path, **settings)
    checked = run(full / "countermand", "planes", "check", folder=tmp_path, **settings)

    needed = "snowflake is not installed: planes on platform_snowflake need countermand[server,worker,snowflake]"
    assert (worker.returncode, worker.stderr) == (ExitCode.REFUSED, f"countermand: {needed}\n")
    assert (checked.returncode, checked.stdout) == (ExitCode.CHECK_FAILED, f"snow: not ok: {needed}\n")


@pytest.mark.parametrize("name", ["adapters", "config", "control_plane"])
def test_a_foreign_package_with_one_of_our_names_is_named_at_start(full: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('the foreign package was imported')")

    refused = run(full / "countermand", "db", "upgrade", folder=tmp_path, PYTHONPATH=str(tmp_path))

    assert refused.returncode != 0
    assert f"The package '{name}' in {tmp_path} shadows Countermand's own" in refused.stderr
    assert "Traceback" not in refused.stderr
