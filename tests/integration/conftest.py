"""A store on each database, empty for each test, with a clock that only the test moves."""

from collections.abc import Iterator

import pytest

from control_plane.schema import metadata
from control_plane.store import Store
from tests.databases import Databases
from tests.integration.given import Clock, Given, empty


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A migrated database for the tests of one module: making one for each of them would take most of their time."""
    lend = databases.lend_sqlite if request.param == "sqlite" else databases.lend_postgres
    with lend() as lent:
        yield lent


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    opened = Store(url, clock=clock)
    empty(opened)
    yield opened
    opened.close()


@pytest.fixture
def given(store: Store, clock: Clock) -> Given:
    return Given(store, clock)


@pytest.fixture
def given_without_indexes(database_url: str, clock: Clock) -> Iterator[Given]:
    """A database of the test's own, whose rows come in the order in which they were written unless they are sorted."""
    opened = Store(database_url, clock=clock)
    with opened.engine.begin() as connection:
        for table in metadata.sorted_tables:
            for index in table.indexes:
                index.drop(connection)
    yield Given(opened, clock)
    opened.close()
