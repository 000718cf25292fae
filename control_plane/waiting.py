"""Waiting for the end of a cancellation, and what is told of it meanwhile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import typer
from msgspec.structs import replace
from rich.console import Console

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

Answer = TypeVar("Answer")


def wait_for_end(client: "Client", job: Job) -> Job:
    """The job once it has ended, or its cancellation is stuck; an interrupt ends the waiting, not the request."""
    try:
        with _progress() as show:
            return _watch(client, job, show)
    except KeyboardInterrupt:
        tell(f"{job.job_id} is not cancelled yet; the request stands, and `countermand jobs show` tells how far it is")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Forbidden as error:
        raise Forbidden(f"{error.message}, so it cannot be waited for; the request stands") from error


def _watch(client: "Client", job: Job, show: Callable[[str], None]) -> Job:
    while job.state not in TERMINAL:
        show(describe(job))
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


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """On a terminal one line that changes; elsewhere a line for each change. Always on stderr."""
    console = Console(stderr=True)
    told: list[str] = []
    with console.status("") as status:

        def show(text: str) -> None:
            if console.is_terminal:
                status.update(text)
            elif text not in told[-1:]:
                told.append(text)
                console.print(text, soft_wrap=True)

        yield show


def exit_code(job: Job) -> ExitCode:
    """How the waiting ended; 0 is proof."""
    if job.receipt and job.receipt.outcome is Outcome.ATTESTED:
        return ExitCode.UNPROVEN
    if job.state in RECEIPTED_STATES:
        return ExitCode.OK
    return ExitCode.COMPLETED_FIRST if job.state in TERMINAL else ExitCode.STUCK


def describe(job: Job) -> str:
    """How far a job's cancellation is, in one line."""
    text = f"{job.job_id}: {job.state.value}"
    if job.receipt:
        return f"{text}, {_proof(job.receipt)}"
    if job.cancellation is None or job.state in TERMINAL:
        return text
    if job.cancellation.waiting:
        return f"{text} ({job.cancellation.waiting.value}): {job.cancellation.waiting_detail}"
    unclaimed = job.cancellation.first_claimed_at is None
    if unclaimed and datetime.now(UTC) - job.cancellation.requested_at > _UNCLAIMED_IS_ODD:
        return f"{text}: no worker has taken it yet; is one running for this plane?"
    return text


def _proof(receipt: Receipt) -> str:
    if receipt.outcome is Outcome.ATTESTED:
        return f"attested, and unproven: nothing but the word of {receipt.worker} says that it stopped"
    proof = [f"closed by {receipt.closure.value}" if receipt.closure else "", receipt.engine_status or ""]
    return f"{receipt.outcome.value} ({', '.join(filter(None, proof))})"
