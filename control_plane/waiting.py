"""Waiting for the end of a cancellation, and what is told of it meanwhile."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape

from control_plane.errors import ControlPlaneUnavailable, ExitCode, Forbidden, StoreUnavailable
from control_plane.jobs import Job, Outcome, Receipt
from control_plane.lifecycle import RECEIPTED_STATES, TERMINAL
from control_plane.printing import tell

if TYPE_CHECKING:  # whoever waits has one; the others start without its libraries
    from control_plane.client import Client

EXIT_INTERRUPTED = 130
LOOK_EVERY_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 2.0  #: at a control plane that is away
_UNCLAIMED_IS_ODD = timedelta(seconds=3)  #: a worker looks every second
_FIRST_REMINDER = timedelta(seconds=15)
_MINUTES_FROM = 120  #: seconds

Answer = TypeVar("Answer")


def _utc_now() -> datetime:
    return datetime.now(UTC)


def wait_for_end(client: "Client", job: Job) -> Job:
    """The job once it has ended, or its cancellation is stuck; an interrupt ends the waiting, not the request."""
    try:
        with Telling(Console(stderr=True)) as telling:
            return _watch(client, job, telling.show)
    except KeyboardInterrupt:
        tell(f"{job.job_id} is not cancelled yet; the request stands, and `countermand jobs show` tells how far it is")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Forbidden as error:
        raise Forbidden(f"{error.message}, so it cannot be waited for; the request stands") from error


def _watch(client: "Client", job: Job, show: Callable[[Job], None]) -> Job:
    while job.state not in TERMINAL:
        show(job)
        told = _outlast(partial(client.get_cancellation, job.job_id))
        if told.stuck or told.state in TERMINAL:
            job = _outlast(partial(client.get_job, job.job_id))
            if job.state not in TERMINAL:
                tell(f"{job.job_id} is stuck: it waits for longer than its plane allows; the request stands")
            return job
        job = replace(job, state=told.state, cancellation=told.cancellation, receipt=told.receipt)
        time.sleep(LOOK_EVERY_SECONDS)
    return job


def _outlast(call: Callable[[], Answer]) -> Answer:
    """What *call* answers, however long the control plane is away; the client has told so."""
    while True:
        try:
            return call()
        except (ControlPlaneUnavailable, StoreUnavailable):
            time.sleep(LOOK_AGAIN_SECONDS)


class Telling:
    """On a terminal one line that changes all the time.

    Elsewhere a line for each change of what is known, and while nothing changes one whenever it has waited for twice as
    long as when it was told the last time: seven in the first half hour.
    """

    def __init__(self, console: Console, now: Callable[[], datetime] = _utc_now) -> None:
        self._console = console
        self._status = console.status("")
        self._now = now
        self._known = ""
        self._told_at = timedelta()

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, job: Job) -> None:
        """The job as it is now."""
        now = self._now()
        if self._console.is_terminal:
            self._status.update(escape(progress(job, now)))
        elif self._is_news(describe(job, now), _waited(job, now)):
            self._console.print(progress(job, now), soft_wrap=True, markup=False, highlight=False)

    def _is_news(self, known: str, waited: timedelta) -> bool:
        if known == self._known and waited < max(2 * self._told_at, _FIRST_REMINDER):
            return False
        self._known, self._told_at = known, waited
        return True


def exit_code(job: Job) -> ExitCode:
    """How the waiting ended; 0 is proof."""
    if job.receipt and job.receipt.outcome is Outcome.ATTESTED:
        return ExitCode.UNPROVEN
    if job.state in RECEIPTED_STATES:
        return ExitCode.OK
    return ExitCode.COMPLETED_FIRST if job.state in TERMINAL else ExitCode.STUCK


def describe(job: Job, now: datetime | None = None) -> str:
    """How far a job's cancellation is, in one line: it is another one only once something has changed."""
    text = f"{job.job_id}: {job.state.value}"
    if job.receipt:
        return f"{text}, {_proof(job.receipt)}"
    cancellation = job.cancellation
    if cancellation is None or job.state in TERMINAL:
        return text
    if cancellation.waiting:
        return f"{text} ({cancellation.waiting.value}): {cancellation.waiting_detail}"
    if cancellation.first_claimed_at is not None:
        return f"{text}: a worker has taken it"
    if _waited(job, now or _utc_now()) > _UNCLAIMED_IS_ODD:
        return f"{text}: no worker has taken it yet; is one running for this plane?"
    return text


def progress(job: Job, now: datetime) -> str:
    """The same, with what is waited for, how long already, how often a worker has tried, and when it will again."""
    cancellation = job.cancellation
    if cancellation is None or job.state in TERMINAL:
        return describe(job, now)
    told = [f"requested {_span(_waited(job, now))} ago"]
    if cancellation.waiting:
        left = cancellation.next_round_at - now
        # While a round is under way this is when its lease runs out: the next one begins then at the latest.
        again = f"the next within {_span(left)}" if left > timedelta() else "the next is due"
        told = [f"waits {cancellation.waiting.meaning}", *told, f"{_rounds(cancellation.rounds)}, {again}"]
    return f"{describe(job, now)} [{'; '.join(told)}]"


def _waited(job: Job, now: datetime) -> timedelta:
    return now - job.cancellation.requested_at if job.cancellation else timedelta()


def _rounds(rounds: int) -> str:
    return f"{rounds} round{'' if rounds == 1 else 's'}"


def _span(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    return f"{seconds} s" if seconds < _MINUTES_FROM else f"{seconds // 60} min"


def _proof(receipt: Receipt) -> str:
    if receipt.outcome is Outcome.ATTESTED:
        return f"attested, and unproven: nothing but the word of {receipt.worker} says that it stopped"
    engine = [f"the engine says {receipt.engine_status!r}"] if receipt.engine_status else []
    closed = [f"closed by {receipt.closure.value}: {receipt.closure.meaning}"] if receipt.closure else []
    return f"{receipt.outcome.value} ({'; '.join([*engine, *closed])})"
