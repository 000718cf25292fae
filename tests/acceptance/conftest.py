"""Sites for tests of the real commands."""

from collections.abc import Iterator

import pytest

from tests.acceptance.site import Site, site_of


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
