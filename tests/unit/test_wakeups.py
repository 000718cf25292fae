"""When long polls end."""

import pytest

from control_plane.api.app import REQUEST_SECONDS
from control_plane.api.wakeups import _together
from control_plane.process_wire import LONGEST_WAIT_SECONDS


@pytest.mark.parametrize("now", [100.0, 100.001, 100.999])
def test_a_long_poll_ends_on_the_second_a_tenth_early_at_most_and_never_late(now: float) -> None:
    ends = {_together(now, 50.0) for _ in range(200)}

    assert all(end == int(end) and now + 44.0 <= end <= now + 50.0 for end in ends)
    assert len(ends) > 1


def test_a_short_poll_ends_when_it_was_asked_to() -> None:
    assert _together(100.25, 3.75) == 104.0


def test_the_longest_poll_is_shorter_than_what_a_request_may_take() -> None:
    assert LONGEST_WAIT_SECONDS < REQUEST_SECONDS
