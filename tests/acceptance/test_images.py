"""What the images have inside: their Dockerfile's own commands, carried out without Docker."""

import json
import re
from pathlib import Path

import pytest

from tests.acceptance.installed import ROOT, locked_versions, run
from tests.acceptance.replayed import environment_of, replay, run_step
from tests.acceptance.test_packaging import VERSION
from tests.deployed import stages
from tests.shared import SharedFolder

pytestmark = pytest.mark.timeout(300)

INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({distribution.name: distribution.version for distribution in distributions()}))
"""
STORE_AND_WEB_FRAMEWORK = {"alembic", "litestar", "psycopg", "sqlalchemy"}
ENGINES = {"duckdb", "snowflake-connector-python"}


@pytest.fixture(scope="session")
def built(shared: SharedFolder) -> Path:
    """The stages that install, each in a folder of its own."""

    def build(folder: Path) -> None:
        replay("build-control-plane", folder)
        replay("build-plane", folder)

    return shared.once("images", build)


def commands(built: Path, image: str) -> Path:
    return built / f"build-{image}" / "opt" / "countermand" / "bin"


def packages(built: Path, image: str) -> dict[str, str]:
    told: dict[str, str] = json.loads(run(commands(built, image) / "python", "-c", INSTALLED, folder=built).stdout)
    return told


@pytest.mark.parametrize("image", ["control-plane", "plane"])
def test_an_images_command_tells_its_version_and_its_packages_are_the_locked_ones(built: Path, image: str) -> None:
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", "\n".join(locked_versions()), flags=re.MULTILINE))

    told = run(commands(built, image) / "countermand", "--version", folder=built)

    assert told.stdout == f"countermand {VERSION}\n"
    installed = {name.lower().replace("_", "-"): version for name, version in packages(built, image).items()}
    assert installed.pop("countermand") == VERSION
    assert installed.items() <= locked.items()


def test_what_runs_beside_an_engine_cannot_open_the_database_and_the_control_plane_has_no_engine(built: Path) -> None:
    plane, control_plane = packages(built, "plane"), packages(built, "control-plane")

    assert plane.keys() >= ENGINES
    assert not STORE_AND_WEB_FRAMEWORK & {name.lower() for name in plane}
    assert {name.lower() for name in control_plane} >= STORE_AND_WEB_FRAMEWORK
    assert not ENGINES & control_plane.keys()


@pytest.mark.parametrize(
    ("image", "needed"),
    [
        ("control-plane", ("control_plane.api.app", "control_plane.api.server", "control_plane.migrations")),
        ("plane", ("adapters.narrative.embedded", "adapters.snowflake", "snowflake.connector", "workers.duties")),
        ("plane", ("workers.canceller", "workers.engines.embedded", "workers.executor", "workers.run_server")),
        ("plane", ("workers.engines.snowflake",)),
    ],
)
def test_an_image_has_what_its_processes_import(built: Path, image: str, needed: tuple[str, ...]) -> None:
    imported = run(commands(built, image) / "python", "-c", f"import {', '.join(needed)}", folder=built)

    assert imported.returncode == 0, imported.stderr


def test_a_package_with_another_hash_than_the_locks_is_not_installed(built: Path, tmp_path: Path) -> None:
    stage = stages()["build-control-plane"]
    root = tmp_path / "image"
    (root / "src").mkdir(parents=True)
    (root / "opt").mkdir()
    (root / "opt" / "uv").symlink_to(built / "build" / "opt" / "uv")
    lock = (ROOT / "requirements.lock").read_text()
    of_h11 = re.search(r"^h11==.*?# via", lock, flags=re.MULTILINE | re.DOTALL)
    assert of_h11
    forged = of_h11[0].replace("sha256:", "sha256:0000")
    (root / "src" / "requirements.lock").write_text(lock.replace(of_h11[0], re.sub(r"(:\w{64})\w{4}", r"\1", forged)))
    (root / "src" / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())

    refused = run_step(stage.all("RUN")[0], root, environment_of(stage))

    assert refused.returncode != 0
    assert "Hash mismatch for `h11" in refused.stderr
