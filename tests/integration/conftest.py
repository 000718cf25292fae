"""A store on each database, with a clock that only the test moves."""

from collections.abc import Iterator

import pytest

from control_plane.store import Store
from tests.integration.given import Clock, Given


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    opened = Store(database_url, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def given(store: Store, clock: Clock) -> Given:
    return Given(store, clock)
