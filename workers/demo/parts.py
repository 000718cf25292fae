"""The jobs of the demo's Narrative planes: what each is, what happens to it, and how it has to end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from control_plane.errors import NotCancellable
from control_plane.jobs import ExecutionCluster, Job, JobType, Outcome, Waiting
from control_plane.lifecycle import TERMINAL, JobState
from workers.demo.example import long_view, short_view

if TYPE_CHECKING:
    from workers.demo.stage import Stage

#: Who asks, each with a token of their own.
OWNER, PASSER_BY = "demo", "somebody else"
LIE_SECONDS = 10.0
SILENCE_SECONDS = 3.0
OTHERS = "others would say cancelled now"

Condition = Callable[[Job], bool]


class MissedError(Exception):
    """A job did not meet the fate that it has to; the text says what was seen instead."""


@dataclass(eq=False)
class Part:
    """One job's part in the demo."""

    name: str
    plot: str
    play: "Callable[[Stage, Part], Awaitable[None]]"
    plane: str = "main"
    cluster: ExecutionCluster | None = None  #: of a plane that has some
    type: JobType = JobType.MATERIALIZE_VIEW
    input: dict[str, Any] = field(default_factory=long_view)
    expected_state: JobState = JobState.CANCELLED
    expected_outcome: Outcome | None = Outcome.STOPPED
    begins_at: float | None = 0.0  #: seconds after all executors were seen at work; None: before any is started
    is_long: bool = True  #: it is seen running before anything happens
    job: Job | None = None
    note: str = ""
    missed: str | None = None

    @property
    def place(self) -> str:
        """Where its work uses the CPU: a cluster, or the plane's executor; what shares one plays at the same time."""
        return self.plane if self.cluster is None else self.cluster.value

    @property
    def executor(self) -> str:
        """The executor that claims it: each cluster of a plane has one of its own."""
        return self.plane if self.cluster is None else f"{self.plane}-{self.cluster.value}"

    @property
    def now(self) -> Job:
        """The job as it was last seen."""
        if self.job is None:
            raise MissedError("it was never submitted")
        return self.job

    @property
    def has_met_its_fate(self) -> bool:
        """Whether all that had to be seen was seen, and the job ended as it must."""
        if self.missed is not None or self.job is None or self.job.state is not self.expected_state:
            return False
        return (self.job.receipt and self.job.receipt.outcome) == self.expected_outcome

    def tell_missed(self, why: str) -> None:
        """Remember the first thing that was not as it has to be."""
        self.missed = self.missed or why


def has_ended(job: Job) -> bool:
    """The job is in a terminal state."""
    return job.state in TERMINAL


def waits(reason: Waiting) -> Condition:
    """The job waits for its receipt, for this reason."""

    def condition(job: Job) -> bool:
        waiting = job.cancellation and job.cancellation.waiting
        return job.state is JobState.PENDING_CANCELLATION and waiting is reason

    return condition


# --- what happens --------------------------------------------------------------------------------------------------


async def cancel_while_running(stage: "Stage", part: Part) -> None:
    """A request, and the receipt."""
    stage.request(part, "the wrong month")
    await stage.see(part, has_ended, "its receipt")


async def cancel_unclaimed(stage: "Stage", part: Part) -> None:
    """The store itself knows that nobody ever claimed it: no worker is needed."""
    stage.request(part, "submitted by mistake")
    await stage.see(part, has_ended, "its receipt", seconds=5)
    part.note = "no executor and no worker had been started yet"


async def ask_twice(stage: "Stage", part: Part) -> None:
    """The first request's who, why and when stay."""
    first = stage.request(part, "asked by the owner").cancellation
    second = stage.request(part, "asked again by somebody else", by=PASSER_BY).cancellation
    if first is None or second is None or first.requested_by != second.requested_by:
        raise MissedError("the second request took the first one's place")
    if (first.reason, first.requested_at) != (second.reason, second.requested_at):
        raise MissedError("the second request changed the first one's reason or time")
    part.note = f"the second request changed nothing: {second.reason!r} stands"
    await stage.see(part, has_ended, "its receipt")


async def ask_too_late(stage: "Stage", part: Part) -> None:
    """A no-op: what is completed stays completed, and published."""
    if not has_ended(part.now):
        part.note = "nobody asks for its cancellation until it has ended by itself"
    await stage.see(part, has_ended, "its end")
    before = part.now
    if stage.request(part, "too late") != before:
        raise MissedError("the late request changed the job")
    part.note = "the request came too late and changed nothing"


async def ask_for_what_cannot_be(stage: "Stage", part: Part) -> None:
    """A refusal that says what can be cancelled here; the job is untouched."""
    before = part.now
    try:
        stage.request(part, "stop the delivery")
    except NotCancellable as refusal:
        part.note = f"refused: {refusal.message.partition(';')[0]}"
    else:
        raise MissedError("its cancellation was accepted")
    if stage.look(part) != before:
        raise MissedError("the refused request changed the job")


async def kill_the_executor(stage: "Stage", part: Part) -> None:
    """Silence is no evidence: only the restarted executor, holding its folder, can say that nothing is left."""
    executor = stage.executors[part.executor]
    executor.kill()
    part.note = "its executor was killed with SIGKILL"
    stage.request(part, "the executor hangs")
    await stage.see(part, waits(Waiting.PLANE_SILENT), "plane_silent")
    part.note = "its executor is silent, which proves nothing"
    await stage.keep_seeing(part, waits(Waiting.PLANE_SILENT), "plane_silent", seconds=SILENCE_SECONDS)
    executor.start()
    part.note = "its executor was started again on its folder"
    await stage.see(part, has_ended, "its receipt")


async def lie(stage: "Stage", part: Part) -> None:
    """The engine accepts the stop and runs on, until the fault is lifted."""
    stage.request(part, "the engine will lie")
    await stage.see(part, waits(Waiting.STILL_RUNNING), "still_running")
    part.note = f"the engine accepted the stop and runs on; {OTHERS}"
    measuring = asyncio.create_task(stage.measure_lie(part))
    await stage.keep_seeing(part, waits(Waiting.STILL_RUNNING), "still_running", seconds=LIE_SECONDS)
    await measuring
    stage.lift_fault(part)
    part.note = "the fault was lifted: the engine stops at last"
    await stage.see(part, has_ended, "its receipt")


def parts() -> list[Part]:
    """The seven, as they are shown."""
    return [
        Part("running", "cancelled while it runs", cancel_while_running, begins_at=1.0),
        Part(
            "pending",
            "cancelled before anyone claimed it",
            cancel_unclaimed,
            expected_outcome=Outcome.NEVER_STARTED,
            begins_at=None,
            is_long=False,
        ),
        Part("asked_twice", "its cancellation is requested twice", ask_twice, begins_at=2.0),
        Part(
            "finished_first",
            "completed before the request arrives",
            ask_too_late,
            input=short_view(),
            expected_state=JobState.COMPLETED,
            expected_outcome=None,
            begins_at=3.0,
            is_long=False,
        ),
        Part(
            "not_cancellable",
            "a delivery, which cannot be taken back",
            ask_for_what_cannot_be,
            type=JobType.DELIVER_DATA,
            input={"dataset_id": 6402},
            expected_state=JobState.PENDING,
            expected_outcome=None,
            begins_at=4.0,
            is_long=False,
        ),
        Part("executor_killed", "its executor is killed", kill_the_executor, plane="killed", begins_at=0.5),
        Part("engine_lies", "its engine says stopped and runs on", lie, plane="liar"),
    ]
