"""Sites for tests of the real commands, and the commands as users install them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.installed import build_wheel, make_environment
from tests.acceptance.site import Site, site_of
from tests.shared import SharedFolder


@pytest.fixture
def site(database_url: str) -> Iterator[Site]:
    """An installation; the test runs once on SQLite and once on Postgres."""
    with site_of(database_url) as made:
        yield made


@pytest.fixture
def sqlite_site(sqlite_url: str) -> Iterator[Site]:
    """An installation on SQLite, for what does not depend on the database."""
    with site_of(sqlite_url) as made:
        yield made


@pytest.fixture(scope="session")
def wheel(shared: SharedFolder) -> Path:
    """The wheel that users are given."""
    (path,) = shared.once("dist", build_wheel).glob("*.whl")
    return path


@pytest.fixture(scope="session")
def full(wheel: Path, shared: SharedFolder) -> Path:
    """The commands of an environment with everything."""
    return shared.once("full", lambda folder: make_environment(folder, wheel, "server", "worker", "embedded")) / "bin"
