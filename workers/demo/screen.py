"""What the demo shows: a live table on a terminal, plain lines elsewhere, and at the end a line for each receipt."""

import time
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from control_plane.jobs import Job, Receipt
from control_plane.lifecycle import JobState
from workers.demo.loads import Load
from workers.demo.parts import Part, has_ended
from workers.demo.stage import Stage

STYLES = {
    JobState.PENDING: "dim",
    JobState.RUNNING: "cyan",
    JobState.PENDING_CANCELLATION: "yellow",
    JobState.CANCELLED: "green",
    JobState.COMPLETED: "green",
    JobState.FAILED: "red",
}


class Screen(Protocol):
    """Shows the stage while it plays, and before that what is waited for."""

    def say(self, text: str) -> None:
        """Show what is waited for."""

    def show(self, stage: Stage) -> None:
        """Show it as it is now."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class Silence:
    """For ``--json``: nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, stage: Stage) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LiveTable:
    """One table that changes."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def say(self, text: str) -> None:
        """Above the table."""
        self._live.console.print(text, soft_wrap=True, highlight=False)

    def show(self, stage: Stage) -> None:
        self._live.update(Group(_table(stage), *cpu_lines(stage)), refresh=True)

    def close(self) -> None:
        self._live.stop()


class PlainLines:
    """A line for each change of a job's state, of its reason to wait, or of what is to be said of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_at = time.monotonic()
        self._told: dict[str, str] = {}

    def say(self, text: str) -> None:
        """As one more line."""
        self._print(text)

    def show(self, stage: Stage) -> None:
        for part in stage.parts:
            line = f"{part.name:{_width(stage)}} {progress(part)}" + (f" - {part.note}" if part.note else "")
            if self._told.get(part.name) != line:
                self._told[part.name] = line
                self._print(line)

    def _print(self, line: str) -> None:
        seconds = time.monotonic() - self._began_at
        self._console.print(f"{seconds:5.1f} s  {line}", soft_wrap=True, highlight=False)

    def close(self) -> None:
        """Nothing: every line stands."""


def open_screen(console: Console, *, silent: bool) -> Screen:
    """What suits the place that the demo is shown in."""
    if silent:
        return Silence()
    return LiveTable(console) if console.is_terminal else PlainLines(console)


# --- while it plays ------------------------------------------------------------------------------------------------


def progress(part: Part) -> str:
    """The job's state, with the outcome or the reason to wait."""
    job = part.now
    if job.receipt is not None:
        return f"{job.state.value} ({job.receipt.outcome.value})"
    waiting = job.cancellation and job.cancellation.waiting
    return f"{job.state.value} ({waiting.value})" if waiting and not has_ended(job) else job.state.value


def _table(stage: Stage) -> RenderableType:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("job", "what happens to it", "state"):
        table.add_column(column, no_wrap=column != "what happens to it")
    table.add_column("since request", justify="right", no_wrap=True)
    for part in stage.parts:
        what = Text(part.plot)
        if part.note:
            what.append(
                f"\n{part.note}", style="bold yellow" if part.now.state is JobState.PENDING_CANCELLATION else "dim"
            )
        table.add_row(part.name, what, Text(progress(part), style=STYLES[part.now.state]), _since_request(part.now))
    return table


def _since_request(job: Job) -> str:
    if job.cancellation is None:
        return ""
    milliseconds = request_to_ended_ms(job)
    if milliseconds is not None:
        return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
    return f"{time.time() - job.cancellation.requested_at.timestamp():.0f} s …"


def request_to_ended_ms(job: Job) -> float | None:
    """From the request to the job's end; None without a settlement."""
    if job.receipt is None or job.cancellation is None or job.ended_at is None:
        return None
    return round((job.ended_at - job.cancellation.requested_at).total_seconds() * 1000, 1)


# --- at the end ----------------------------------------------------------------------------------------------------


def cpu_lines(stage: Stage) -> list[str]:
    """The CPU of each executor, of the double and of Spark, as far as measured; an account's is out of sight."""
    return [f"CPU of {load.of:16} {_percents(load)}" for load in stage.loads.values() if load.running is not None]


def _percents(load: Load) -> str:
    told = {"while it runs": load.running, "told to stop, and running on": load.told_to_stop, "after": load.after}
    return ", ".join(f"{when} {percent:.0f}%" for when, percent in told.items() if percent is not None) + " of a core"


def receipt_line(part: Part, stage: Stage) -> str:
    """The receipt, or what stands in its place, in a line."""
    job, name = part.now, f"{part.name:{_width(stage)}}"
    if part.missed is not None:
        return f"{name} MISSED: {part.missed}"
    if job.receipt is None:
        return f"{name} {job.state.value}, without a receipt: {part.note}"
    return f"{name} {job.state.value} {_proof(job.receipt)}, {_since_request(job)} after the request"


def _proof(receipt: Receipt) -> str:
    proof = [receipt.outcome.value]
    if receipt.engine_status is not None:
        proof.append(f"{receipt.engine} says {receipt.engine_status!r}")
    if receipt.closure is not None:
        proof.append(f"closed by {receipt.closure.value}")
    return ", ".join([*proof, f"seen by {receipt.worker} at {receipt.seen_at:%H:%M:%S.%f}"[:-3] + "Z"])


def closure_lines(stage: Stage) -> list[str]:
    """What the receipts mean by what closed their jobs."""
    receipts = [part.now.receipt for part in stage.parts if part.missed is None]
    closures = dict.fromkeys(receipt.closure for receipt in receipts if receipt is not None and receipt.closure)
    if not closures:
        return []
    width = max(len(closure.value) for closure in closures)
    meanings = [f"  {closure.value:{width}}  {closure.meaning}" for closure in closures]
    return ["A job is closed once nothing of it can start any more; these were closed by:", *meanings]


def verdict(stage: Stage) -> str:
    """How it went, in a sentence."""
    met = sum(part.has_met_its_fate for part in stage.parts)
    if met < len(stage.parts):
        return f"{met} of {len(stage.parts)} jobs met their fates."
    found = [f"{rows} rows of {name}" for name, rows in stage.published.items()]
    if len(found) == 1:
        found = [f"{rows} rows of the one that was completed" for rows in stage.published.values()]
    return f"All {met} jobs met their fates; readers find {' and '.join(found)}."


def _width(stage: Stage) -> int:
    return max(len(part.name) for part in stage.parts)
