"""What is concluded from the moments in jobs' ids: how far back a history has to be read."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from adapters.snowflake.listings import since
from control_plane.ids import new_id
from control_plane.work import Work


def made_at(moment: datetime) -> Work:
    """A job whose id says that it was made then."""
    milliseconds = int(moment.timestamp() * 1000)
    return Work(UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62)), "t")


def test_nothing_of_jobs_ended_before_the_first_was_made_whose_clock_may_be_an_hour_ahead() -> None:
    moment = datetime(2026, 11, 28, 12, tzinfo=UTC)

    assert since([made_at(moment + timedelta(days=1)), made_at(moment)]) == moment - timedelta(hours=1)


def test_an_id_of_ours_says_when_it_was_made() -> None:
    found = since([Work(new_id(), "t")])

    assert found is not None
    assert timedelta(0) < datetime.now(UTC) - found < timedelta(hours=2)


def test_an_id_without_a_moment_says_nothing_of_any() -> None:
    assert since([made_at(datetime.now(UTC)), Work(uuid4(), "t")]) is None
    assert since([Work(UUID(int=4 << 76 | 2 << 62), "t")]) is None


def test_no_jobs_say_nothing() -> None:
    assert since([]) is None
