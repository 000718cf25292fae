"""What operators read of a cancellation: one canonical line when it ends, a line when its reason to wait changes.

Worker and plane are bound by whoever runs the round.
"""

from datetime import datetime

import msgspec
import structlog

from control_plane.jobs import Postponed, Postponement, Settled, Settlement
from control_plane.lifecycle import Trigger, destination
from workers.judgement import Case

log = structlog.get_logger()


def tell_settled(case: Case, settlement: Settlement, settled: Settled | None) -> None:
    """``cancellation_settled`` with the whole story, or ``settlement_stale`` when somebody else was first."""
    assignment, receipt = case.assignment, settlement.receipt
    if settled is None or not settled.landed:
        log.info("settlement_stale", job=str(case.job_id))
        return
    handle = receipt and receipt.handle
    log.info(
        "cancellation_settled",
        job=str(case.job_id),
        type=assignment.type.value,
        state=destination(Trigger.CANCEL if receipt else Trigger.COMPLETE).value,
        outcome=receipt and receipt.outcome.value,
        requested_by=msgspec.to_builtins(assignment.requested_by),
        reason=assignment.reason,
        rounds=assignment.rounds,
        rung=case.rung and case.rung.value,
        closure=receipt and receipt.closure and receipt.closure.value,
        engine=receipt and receipt.engine,
        handle=handle and handle.run_id,
        engine_status=receipt and receipt.engine_status,
        **_durations(case, receipt.engine_ended_at if receipt else None, settled.settled_at),
    )


def _durations(case: Case, ended_at: datetime | None, settled_at: datetime | None) -> dict[str, float | None]:
    assignment = case.assignment
    return {
        "request_to_claim_ms": _milliseconds(assignment.requested_at, assignment.first_claimed_at),
        "claim_to_stop_ms": _milliseconds(assignment.first_claimed_at, case.first_stop_at),
        "stop_to_ended_ms": _milliseconds(case.first_stop_at, ended_at),
        "ended_to_settled_ms": _milliseconds(ended_at, settled_at),
        "request_to_settled_ms": _milliseconds(assignment.requested_at, settled_at),
    }


def _milliseconds(earlier: datetime | None, later: datetime | None) -> float | None:
    """None where one is not known. Below zero when two machines' clocks disagree, or a run ended before its stop."""
    if earlier is None or later is None:
        return None
    return round((later - earlier).total_seconds() * 1000, 1)


def tell_postponed(case: Case, postponement: Postponement, postponed: Postponed | None) -> None:
    """``cancellation_postponed`` when the reason changes, and ``cancellation_stuck`` once."""
    assignment = case.assignment
    story = {
        "job": str(case.job_id),
        "waiting": postponement.waiting.value,
        "detail": postponement.detail,
        "rounds": assignment.rounds,
        "rung": postponement.rung and postponement.rung.value,
    }
    if postponement.waiting is not assignment.waiting:
        log.info("cancellation_postponed", next_round_in_seconds=round(postponement.delay_seconds, 3), **story)
    if postponed is not None and postponed.became_stuck:
        log.error("cancellation_stuck", stuck_after_seconds=assignment.stuck_after_seconds, **story)
