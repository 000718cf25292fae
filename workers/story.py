"""What operators are told of a cancellation: one canonical line when it ends, a line when its reason to wait changes.

Worker and plane are bound by whoever runs the round.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from control_plane.lifecycle import Trigger, destination
from control_plane.work import Postponed, Postponement, Settled, Settlement
from workers.judgement import Case
from workers.metrics import POSTPONED, SETTLED, STUCK

log = structlog.get_logger()


def tell_settled(cases: Sequence[Case], settlements: Sequence[Settlement], answers: Sequence[Settled]) -> None:
    """``cancellation_settled`` with the whole story, or ``settlement_stale`` when somebody else was first."""
    stories = []
    for case, settlement, settled in zip(cases, settlements, answers, strict=True):
        if settled.landed:
            stories.append(_story(case, settlement, settled))
        else:
            log.info("settlement_stale", job=case.job_id)
    if stories:
        log.info("cancellation_settled", each=stories)
        plane = str(cases[0].assignment.data_plane_id)
        for outcome, count in Counter(story["outcome"] or story["state"] for story in stories).items():
            SETTLED.labels(plane, outcome).inc(count)


def _story(case: Case, settlement: Settlement, settled: Settled) -> dict[str, Any]:
    assignment, receipt = case.assignment, settlement.receipt
    seen = receipt or settlement.result
    ended_at = seen.engine_ended_at if seen else None
    return {
        "job": case.job_id,
        "type": assignment.type,
        "state": destination(Trigger.CANCEL if receipt else Trigger.COMPLETE),
        "outcome": receipt and receipt.outcome,
        "requested_by": assignment.requested_by,
        "reason": assignment.reason,
        "rounds": assignment.rounds,
        "rung": case.rung,
        "closure": receipt and receipt.closure,
        "engine": receipt and receipt.engine,
        "handle": seen.handle.run_id if seen and seen.handle else None,
        "engine_status": seen and seen.engine_status,
        "request_to_claim_ms": _between(assignment.requested_at, assignment.first_claimed_at),
        "claim_to_stop_ms": _between(assignment.first_claimed_at, case.first_stop_at),
        "stop_to_ended_ms": _between(case.first_stop_at, ended_at),
        "ended_to_settled_ms": _between(ended_at, settled.settled_at),
        "request_to_settled_ms": _between(assignment.requested_at, settled.settled_at),
    }


_MILLISECOND = timedelta(milliseconds=1)


def _between(earlier: datetime | None, later: datetime | None) -> float | None:
    """Milliseconds; None where a moment is not known.

    Below zero when two machines' clocks disagree, or a run ended before its stop.
    """
    if earlier is None or later is None:
        return None
    return round((later - earlier) / _MILLISECOND, 1)


def tell_postponed(case: Case, postponement: Postponement, postponed: Postponed | None) -> None:
    """``cancellation_postponed`` when the reason changes, and ``cancellation_stuck`` once."""
    assignment = case.assignment
    story = {
        "job": case.job_id,
        "waiting": postponement.waiting,
        "detail": postponement.detail,
        "rounds": assignment.rounds,
        "rung": postponement.rung,
    }
    plane = str(assignment.data_plane_id)
    POSTPONED.labels(plane, postponement.waiting.value).inc()
    if postponement.waiting is not assignment.waiting:
        log.info("cancellation_postponed", next_round_in_seconds=round(postponement.delay_seconds, 3), **story)
    if postponed is not None and postponed.became_stuck:
        STUCK.labels(plane).inc()
        log.error("cancellation_stuck", stuck_after_seconds=assignment.stuck_after_seconds, **story)
