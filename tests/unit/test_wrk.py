"""What becomes of wrk's words."""

import pytest

from benchmarks.wrk import read_rate

BEGINNING = "Running 5m test @ http://127.0.0.1:8000\n  1 threads and 16 connections\n"


def test_the_rate_is_what_was_answered_by_the_time_that_took() -> None:
    rate = read_rate(BEGINNING + '{"answered": 8000, "refused": 0, "seconds": 2.500000}\n')

    assert rate == 3200


def test_a_load_that_ended_before_wrk_had_said_what_it_does_is_read_as_well() -> None:
    rate = read_rate('{"answered": 3, "refused": 0, "seconds": 0.001}\n')

    assert rate == pytest.approx(3000)


def test_a_refused_request_spoils_the_rate() -> None:
    with pytest.raises(RuntimeError, match="2 of 8000 requests were refused"):
        read_rate(BEGINNING + '{"answered": 8000, "refused": 2, "seconds": 2.5}\n')


@pytest.mark.parametrize("said", ["", "  Socket errors: connect 0, read 16, write 0, timeout 0\nRequests/sec: 5.00\n"])
def test_unless_wrk_came_to_its_end_there_is_no_rate(said: str) -> None:
    with pytest.raises(RuntimeError, match="answers that did not come"):
        read_rate(BEGINNING + said)
