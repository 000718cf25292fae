"""Wake-ups: Postgres tells a listener once for each request or batch; the poll remains the truth."""

import select
from collections.abc import Iterator
from uuid import UUID

import pytest

from control_plane import statements
from control_plane.errors import StoreUnavailable
from control_plane.intake import CancellationRequest
from control_plane.jobs import Process
from control_plane.notify import Listener, can_listen
from control_plane.planes import DataPlane
from control_plane.store import Store
from control_plane.work import Executor, News
from tests.databases import Databases
from tests.integration.given import EXECUTOR, VIEW_RESULT, Given
from tests.postgres import Postgres

#: After this a wake-up counts as lost; one that comes is not waited for so long.
PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module")
def url(databases: Databases) -> Iterator[str]:
    """Postgres alone: SQLite has no wake-ups."""
    with databases.lend_postgres() as lent:
        yield lent


@pytest.fixture
def listener(given: Given, url: str) -> Iterator[Listener]:
    """Listening from when the plane is there: what happens before is not heard."""
    opened = Listener(url)
    yield opened
    opened.close()


def heard(listener: Listener, given: Given) -> list[tuple[UUID, News]]:
    """Every wake-up until now: those before a last one, which is sent here to mark the end."""
    end = given.new_plane().data_plane_id
    given.store.perform(statements.wake_plane(), plane=str(end))
    news: list[tuple[UUID, News]] = []
    while (end, News.JOBS) not in news:
        readable, _, _ = select.select([listener.fileno()], [], [], PATIENCE_SECONDS)
        assert readable, "the wake-up was lost"
        news.extend(listener.news())
    return news[:-1]


def cancellations_of(plane: DataPlane) -> tuple[UUID, News]:
    return plane.data_plane_id, News.CANCELLATIONS


def test_postgres_has_wake_ups_and_sqlite_has_none(url: str) -> None:
    assert can_listen(url)
    assert not can_listen("sqlite:///countermand.db")


def test_a_request_wakes_the_listeners_of_its_plane_once(given: Given, url: str) -> None:
    claim = given.running()
    listeners = [Listener(url), Listener(url)]

    given.request(claim.job_id)

    assert [heard(listener, given)[:1] for listener in listeners] == [[cancellations_of(given.plane)]] * 2
    for listener in listeners:
        listener.close()


def test_a_request_that_changes_nothing_wakes_nobody(given: Given, url: str) -> None:
    claim = given.requested()
    ended = given.completed()
    listener = Listener(url)

    given.request(claim.job_id)
    given.request(ended)

    assert heard(listener, given) == []
    listener.close()


def test_a_batch_wakes_each_plane_once(given: Given, url: str) -> None:
    other = given.new_plane()
    jobs = [given.running(plane=plane).job_id for plane in (given.plane, other, given.plane, other, given.plane)]
    listener = Listener(url)

    given.store.perform(
        statements.request_cancellation(),
        [CancellationRequest(job_id, Process("bulk")) for job_id in jobs],
    )

    assert sorted(heard(listener, given)) == sorted([cancellations_of(given.plane), cancellations_of(other)])
    listener.close()


def test_a_submission_wakes_its_plane_once(given: Given, listener: Listener) -> None:
    given.pending()

    assert heard(listener, given) == [(given.plane.data_plane_id, News.JOBS)]


def test_a_confirmed_closing_wakes_its_plane_once_for_all_its_jobs(given: Given, url: str) -> None:
    claims = [given.requested() for _ in range(3)]
    listener = Listener(url)

    given.dispatch.confirm_closed({claim.job_id: claim.epoch for claim in claims})

    assert heard(listener, given) == [cancellations_of(given.plane)]
    listener.close()


def test_a_later_start_of_an_executor_wakes_the_plane_of_what_it_confirms(given: Given, url: str) -> None:
    given.requested()
    listener = Listener(url)

    given.dispatch.confirm_lower_incarnations(Executor(EXECUTOR.executor_id, 2))

    assert heard(listener, given) == [cancellations_of(given.plane)]
    listener.close()


def test_a_failure_that_is_only_a_hint_wakes_its_plane(given: Given, url: str) -> None:
    claim = given.requested()
    listener = Listener(url)

    given.fail(claim)

    assert heard(listener, given) == [cancellations_of(given.plane)]
    listener.close()


def test_what_is_rolled_back_wakes_nobody(given: Given, listener: Listener) -> None:
    with pytest.raises(ZeroDivisionError):
        wake_and_fail(given)

    assert heard(listener, given) == []


def wake_and_fail(given: Given) -> None:
    with given.store.transaction() as transaction:
        transaction.perform(statements.wake_plane(), plane=str(given.plane.data_plane_id))
        raise ZeroDivisionError


def test_other_moves_wake_nobody(given: Given, url: str) -> None:
    claim = given.running()
    listener = Listener(url)

    given.dispatch.attend({claim.job_id: claim.epoch})
    given.commit(claim, result=VIEW_RESULT)

    assert heard(listener, given) == []
    listener.close()


def test_without_news_asking_does_not_wait(listener: Listener) -> None:
    assert list(listener.news()) == []


def test_what_others_send_on_the_channel_is_no_wake_up_and_harms_nobody(given: Given, listener: Listener) -> None:
    given.store.perform(statements.wake_plane(), plane="not a plane")
    given.store.perform(statements.wake_plane(), plane=str(given.plane.data_plane_id))

    assert heard(listener, given) == [(given.plane.data_plane_id, News.JOBS)]


def test_a_server_that_is_not_there_is_called_unavailable(own_postgres: Postgres) -> None:
    own_postgres.suspend()

    with pytest.raises(StoreUnavailable, match=r"^no wake-ups: "):
        Listener(own_postgres.url())


def test_a_connection_that_is_lost_is_noticed_and_another_can_be_opened(own_postgres: Postgres) -> None:
    listener = Listener(own_postgres.url())
    own_postgres.restart("immediate")

    with pytest.raises(StoreUnavailable, match=r"^no wake-ups: "):
        hear_until_the_line_is_dead(listener)

    listener.close()
    again = Listener(own_postgres.url())
    assert list(again.news()) == []
    again.close()


def hear_until_the_line_is_dead(listener: Listener) -> None:
    """The server's last words may come before the end of the line."""
    for _ in range(3):
        assert select.select([listener.fileno()], [], [], PATIENCE_SECONDS)[0]
        assert list(listener.news()) == []


def test_a_store_says_that_its_database_is_away_and_goes_on_when_it_is_back(own_postgres: Postgres) -> None:
    store = Store(own_postgres.url())
    store.perform(statements.wake_plane(), plane="nobody")
    own_postgres.suspend()

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is away"):
            store.perform(statements.wake_plane(), plane="nobody")

    own_postgres.resume()
    assert store.perform(statements.wake_plane(), plane="nobody")
    store.close()
