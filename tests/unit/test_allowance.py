"""So many stops a second, and no more."""

from tests.doubles.manual_clock import ManualClock
from workers.allowance import Allowance


def test_without_a_bound_everything_is_allowed() -> None:
    allowance = Allowance(ManualClock().clock(), per_second=None)

    assert (allowance.left(), allowance.take(10_000)) == (None, True)


def test_a_second_brings_so_many_and_saves_none_for_later() -> None:
    time = ManualClock()
    allowance = Allowance(time.clock(), per_second=5)

    taken = [allowance.take(1) for _ in range(6)]
    time.advance(0.4)
    after_a_while = [allowance.take(1) for _ in range(3)]
    time.advance(100)

    assert taken == [True] * 5 + [False]
    assert after_a_while == [True, True, False]
    assert allowance.left() == 5


def test_less_than_one_a_second_allows_one_at_a_time() -> None:
    time = ManualClock()
    allowance = Allowance(time.clock(), per_second=0.5)

    first, second = allowance.take(1), allowance.take(1)
    time.advance(2)

    assert (first, second, allowance.take(1)) == (True, False, True)


def test_more_than_a_second_brings_is_had_at_once_and_then_waited_for() -> None:
    time = ManualClock()
    allowance = Allowance(time.clock(), per_second=2)

    had = allowance.take(6)
    time.advance(2)
    too_soon = allowance.take(1)
    time.advance(1)

    assert (had, too_soon, allowance.take(1)) == (True, False, True)


def test_a_bound_that_is_changed_counts_at_once() -> None:
    time = ManualClock()
    allowance = Allowance(time.clock(), per_second=1)
    allowance.take(1)

    allowance.change(3)

    assert allowance.left() == 3
