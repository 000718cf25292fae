"""A permit is used for its first half, counted from before it was asked for."""

import pytest

from tests.doubles.manual_clock import ManualClock
from workers.permit import Permit


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def permit_of(clock: ManualClock, seconds: float, *, asked_at: float = 0.0) -> Permit:
    return Permit(clock.clock().monotonic, seconds=seconds, asked_at=asked_at)


def test_only_the_first_half_of_a_permit_is_used(clock: ManualClock) -> None:
    permit = permit_of(clock, 30.0)

    clock.advance(14.9)
    assert permit.left_seconds() == pytest.approx(0.1)
    clock.advance(0.1)
    assert permit.left_seconds() <= 0


def test_a_permit_counts_from_before_it_was_asked_for(clock: ManualClock) -> None:
    clock.advance(20.0)

    assert permit_of(clock, 30.0, asked_at=5.0).left_seconds() == 0


def test_renewing_counts_from_the_renewals_asking(clock: ManualClock) -> None:
    permit = permit_of(clock, 30.0)
    clock.advance(20.0)

    permit.renew(asked_at=10.0)

    assert permit.left_seconds() == 5.0


def test_an_answer_that_was_overtaken_takes_nothing_back(clock: ManualClock) -> None:
    permit = permit_of(clock, 30.0)
    clock.advance(20.0)

    permit.renew(asked_at=19.0)
    permit.renew(asked_at=1.0)

    assert permit.left_seconds() == 14.0
