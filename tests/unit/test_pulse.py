"""When a benchmark takes the machine for slow, and which answers it then leaves out."""

import pytest

from benchmarks.machine import Spell
from benchmarks.processes.pulse import APART_SECONDS, PAUSE_SECONDS, spells

USUAL = 1.0


def felt(*costs: float, apart: float = PAUSE_SECONDS) -> list[tuple[float, float]]:
    return [(number * apart, cost) for number, cost in enumerate(costs)]


def test_a_machine_that_is_as_fast_as_usual_has_no_slow_spell() -> None:
    assert spells(felt(USUAL, 1.4 * USUAL, USUAL, 0.5 * USUAL)) == []
    assert spells([]) == []


def test_slow_moments_that_are_close_together_are_one_spell_and_others_are_not() -> None:
    close = felt(USUAL, 5.0, USUAL, 5.0, USUAL, USUAL, USUAL)
    far = felt(USUAL, 5.0, USUAL, 5.0, USUAL, USUAL, USUAL, apart=APART_SECONDS)

    assert spells(close) == [(0.0, 3 * PAUSE_SECONDS)]
    assert len(spells(far)) == 2


@pytest.mark.parametrize(
    ("began_at", "ended_at", "touched"),
    [(0.0, 9.0, False), (0.0, 10.0, True), (11.0, 11.1, True), (13.9, 14.0, True), (14.1, 15.0, False)],
)
def test_an_answer_is_left_out_if_it_went_on_in_a_spell_or_for_as_long_again_after_it(
    began_at: float, ended_at: float, touched: bool
) -> None:
    assert Spell(10.0, 12.0).touches(began_at, ended_at) is touched
