"""A plane whose engine is silent is tried now and then, and only then."""

import pytest
from structlog.testing import capture_logs

from tests.doubles.manual_clock import ManualClock
from workers.breaker import FIRST_PAUSE_SECONDS, FORGOTTEN_AFTER_SECONDS, LONGEST_PAUSE_SECONDS, Breaker


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(time: ManualClock) -> Breaker:
    return Breaker(time.clock(), what="snowflake")


def test_an_engine_that_answers_is_always_asked(breaker: Breaker) -> None:
    breaker.met_an_answer()

    assert [breaker.admits() for _ in range(3)] == [True, True, True]


def test_after_silence_nobody_is_admitted_until_the_pause_is_over_and_then_one_alone(
    breaker: Breaker, time: ManualClock
) -> None:
    breaker.met_silence("no answer")

    at_once = breaker.admits()
    time.advance(FIRST_PAUSE_SECONDS)
    later = [breaker.admits(), breaker.admits()]

    assert (at_once, later) == (False, [True, False])


def test_it_is_needed_while_it_is_open_and_somebody_may_still_ask(breaker: Breaker, time: ManualClock) -> None:
    at_first = breaker.is_needed
    breaker.met_silence("no answer")
    time.advance(FORGOTTEN_AFTER_SECONDS)
    open_ = breaker.is_needed
    time.advance(FIRST_PAUSE_SECONDS)

    assert (at_first, open_, breaker.is_needed) == (False, True, False)


def test_each_further_silence_doubles_the_pause_up_to_a_bound(breaker: Breaker, time: ManualClock) -> None:
    pauses = []

    for _ in range(7):
        breaker.met_silence("no answer")
        waited = 0.0
        while not breaker.admits():
            time.advance(FIRST_PAUSE_SECONDS)
            waited += FIRST_PAUSE_SECONDS
        pauses.append(waited)

    assert pauses == [1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_an_answer_closes_it_and_the_next_silence_begins_with_the_first_pause(
    breaker: Breaker, time: ManualClock
) -> None:
    for _ in range(4):
        breaker.met_silence("no answer")

    breaker.met_an_answer()
    closed = breaker.admits()
    breaker.met_silence("no answer again")
    time.advance(FIRST_PAUSE_SECONDS)

    assert (closed, breaker.admits()) == (True, True)


def test_whoever_is_admitted_and_never_tells_does_not_keep_the_others_out_for_ever(
    breaker: Breaker, time: ManualClock
) -> None:
    breaker.met_silence("no answer")
    time.advance(FIRST_PAUSE_SECONDS)
    assert breaker.admits()

    time.advance(FIRST_PAUSE_SECONDS)

    assert breaker.admits()


def test_each_change_of_state_is_one_log_line(breaker: Breaker, time: ManualClock) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            breaker.met_silence("no answer")
            time.advance(1)
        breaker.met_an_answer()
        breaker.met_an_answer()

    assert [(line["event"], line["what"]) for line in lines] == [
        ("engine_lost", "snowflake"),
        ("engine_back", "snowflake"),
    ]
    assert lines[1]["away_seconds"] == 3.0
