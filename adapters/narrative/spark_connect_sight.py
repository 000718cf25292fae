"""What the web UI of a Connect server shows at one look, and what that says of an operation."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Self

from msgspec import Struct, field, structs

from adapters.narrative.spark_connect_names import Operation

#: As Spark builds them; a user's name may hold whatever it likes.
SESSION_TAG = re.compile(r"SparkConnect_SessionTag_User_.*_Session_([0-9a-f-]{36})_Tag_(.+)")
OPERATION_TAG = re.compile(r"SparkConnect_OperationTag_User_.*_Session_([0-9a-f-]{36})_Operation_([0-9a-f-]{36})")
MOMENT = "%Y-%m-%dT%H:%M:%S.%f%Z"
NEVER = "9999-12-31T23:59:59.999GMT"
FINISHED = frozenset({"FINISHED", "FAILED", "CANCELED", "TIMEDOUT", "CLOSED"})


class Job(Struct, frozen=True, rename="camel"):
    """One of Spark's own jobs, of which a run has any number."""

    job_id: int = -1
    job_tags: list[str] = field(default_factory=list)
    stage_ids: list[int] = field(default_factory=list)
    status: str = "UNKNOWN"
    completion_time: str | None = None

    @property
    def operations(self) -> set[tuple[str, str]]:
        """Session and operation that it belongs to."""
        found = (OPERATION_TAG.fullmatch(tag) for tag in self.job_tags)
        return {(match[1], match[2]) for match in found if match}

    @property
    def tags(self) -> set[tuple[str, str]]:
        """Session and tag under which it was submitted."""
        found = (SESSION_TAG.fullmatch(tag) for tag in self.job_tags)
        return {(match[1], match[2]) for match in found if match}


class Statement(Struct, frozen=True, rename="camel"):
    """An operation, as the web UI has it. That it is CLOSED it may say of any that has ended, however."""

    session_id: str
    operation_id: str
    state: str = "UNKNOWN"
    start_timestamp: int = 0  #: of the driver's clock, in milliseconds

    @property
    def name(self) -> tuple[str, str]:
        """Session and operation."""
        return self.session_id, self.operation_id


class Stage(Struct, frozen=True, rename="camel"):
    """One attempt of a stage."""

    stage_id: int
    attempt_id: int = 0
    status: str = "UNKNOWN"
    num_active_tasks: int = 0

    @property
    def active_tasks(self) -> int:
        """While the stage is active, the UI learns of tasks that start with its next event only, which may be far.

        With the stage's end, also the end by a stop, the number is exact.
        """
        return max(self.num_active_tasks, 1 if self.status == "ACTIVE" else 0)


class Traces(NamedTuple):
    """What the UI knows of one operation."""

    active_tasks: int = 0
    running_jobs: int = 0  #: of Spark's own: their tasks may have yet to begin
    ended_at: datetime | None = None  #: the last of its jobs
    unfinished: bool = False  #: no end of it is known: it may begin more
    in_line: bool = False  #: a part of it may stand in line for a thread of the driver
    forgotten: bool = False  #: a task may be left of a job of it that has ended, and that the UI has forgotten

    @property
    def are_shown(self) -> bool:
        """Whether the UI itself shows it at work."""
        return bool(self.active_tasks or self.running_jobs)

    @property
    def computes(self) -> bool:
        """Whether tasks of it are active, or will be, or may be."""
        return self.are_shown or self.in_line or self.forgotten


class Sight(NamedTuple):
    """One look at everything."""

    jobs: tuple[Job, ...]
    active: Mapping[int, int]  #: tasks by stage
    unfinished: frozenset[tuple[str, str]] = frozenset()  #: sessions and operations of which it knows no end
    began: Mapping[tuple[str, str], datetime] = {}  #: when an operation did, as far as that is known
    in_line: bool = False  #: something of anybody's may stand in line for a thread of the driver
    cut: frozenset[int] = frozenset()  #: stages of which an earlier attempt is forgotten
    strays: bool | None = None  #: whether tasks run that are of no job that is shown; None: nobody has looked

    @classmethod
    def of(cls, statements: Iterable[Statement], jobs: Iterable[Job], stages: Iterable[Stage]) -> Self:
        """What is told of all of them."""
        known, attempts = list(statements), list(stages)
        return cls(
            tuple(jobs),
            active_tasks(attempts),
            frozenset(one.name for one in known if one.state not in FINISHED),
            {one.name: datetime.fromtimestamp(one.start_timestamp / 1000, UTC) for one in known},
            cut=_cut(attempts),
        )

    def since(self, earlier: "Sight") -> "Sight":
        """The same, and what has ended since *earlier* as running: whoever waited for it may begin more just now.

        Of what came meanwhile, and is forgotten already, nobody can tell whose it was.
        """
        over = {job.job_id for job in earlier.jobs if job.status != "RUNNING"}
        shown = {job.job_id for job in self.jobs}
        jobs = [job if job.job_id in over else structs.replace(job, status="RUNNING") for job in self.jobs]
        forgotten = [job for job in earlier.jobs if job.job_id not in over | shown]
        latest = max((job.job_id for job in earlier.jobs), default=-1)
        is_cut = not shown.issuperset(range(latest + 1, max(shown, default=-1)))
        return self._replace(jobs=(*jobs, *forgotten), in_line=self.in_line or is_cut)

    def with_tasks(self, tasks: Mapping[int, int], later: "Sight") -> "Sight":
        """The same, with the *tasks* that executors ran afterwards, by stage; *later* shows the jobs of all of them.

        But of one that had ended, and was forgotten.
        """
        shown = {stage for job in later.jobs for stage in job.stage_ids}
        active = {stage: max(self.active.get(stage, 0), tasks.get(stage, 0)) for stage in self.active.keys() | tasks}
        return self._replace(active=active, strays=bool(tasks.keys() - shown))

    def traces(self, operation: Operation) -> Traces:
        """Those of an operation."""
        name = (operation.session.session_id, operation.operation_id)
        traces = self._traces(job for job in self.jobs if name in job.operations)
        forgotten = self.strays is not False and self.may_lack(operation)
        return traces._replace(unfinished=name in self.unfinished, in_line=self.in_line, forgotten=forgotten)

    def may_hide(self, operation: Operation) -> bool:
        """Whether it may go on although nothing that is shown says so: something of it may be forgotten."""
        return self.may_lack(operation) and not self.traces(operation).are_shown

    def may_lack(self, operation: Operation) -> bool:
        """Whether something of the operation may have ended and been forgotten: a job, or a stage of one.

        The UI forgets first what has ended first, and nothing that goes on.
        """
        name = (operation.session.session_id, operation.operation_id)
        stages = {stage for job in self.jobs if name in job.operations for stage in job.stage_ids}
        until = self._forgotten_until
        began = self.began.get(name)
        is_cut = not stages <= self.active.keys() - self.cut
        return is_cut or (until is not None and (began is None or began <= until))

    @property
    def _forgotten_until(self) -> datetime | None:
        """No job is forgotten that has ended later; None where all are shown: their numbers begin with 0."""
        if len(self.jobs) > max((job.job_id for job in self.jobs), default=-1):
            return None
        ends = (job.completion_time for job in self.jobs if job.completion_time)
        return moment(min(ends, default=NEVER))  # as text they are in the order of time

    def shows_job_of(self, operation: Operation) -> bool:
        """Whether a job of it was begun, ended or not."""
        name = (operation.session.session_id, operation.operation_id)
        return any(name in job.operations for job in self.jobs)

    def operations(self, session_id: str) -> set[str]:
        """The operations of a session that have left any trace."""
        known = self.unfinished.union(*(job.operations for job in self.jobs))
        return {found[1] for found in known if found[0] == session_id}

    def running(self, session_id: str) -> list[int]:
        """The numbers of the session's Spark jobs that run."""
        own = (job for job in self.jobs if any(found[0] == session_id for found in job.operations))
        return [job.job_id for job in own if job.status == "RUNNING"]

    def tagged(self, prefix: str) -> set[tuple[str, str]]:
        """Sessions and tags of which something runs, of the tags that begin so."""
        running = (job for job in self.jobs if self._traces([job]).computes)
        return {found for job in running for found in job.tags if found[1].startswith(prefix)}

    def _traces(self, jobs: Iterable[Job]) -> Traces:
        own = list(jobs)
        stages = {stage for job in own for stage in job.stage_ids}
        ended = [moment(job.completion_time) for job in own if job.completion_time]
        return Traces(
            active_tasks=sum(self.active.get(stage, 0) for stage in stages),
            running_jobs=sum(job.status == "RUNNING" for job in own),
            ended_at=max(ended, default=None),
        )


def moment(text: str) -> datetime:
    """Spark's way to write one: ``2026-01-02T03:04:05.678GMT``."""
    return datetime.strptime(text, MOMENT).replace(tzinfo=UTC)


def active_tasks(stages: Iterable[Stage]) -> dict[int, int]:
    """By stage, in all of its attempts that are shown."""
    active: dict[int, int] = {}
    for stage in stages:
        active[stage.stage_id] = active.get(stage.stage_id, 0) + stage.active_tasks
    return active


def _cut(stages: Iterable[Stage]) -> frozenset[int]:
    """Those of which not all attempts are shown: their numbers begin with 0."""
    attempts: dict[int, set[int]] = {}
    for stage in stages:
        attempts.setdefault(stage.stage_id, set()).add(stage.attempt_id)
    return frozenset(stage for stage, shown in attempts.items() if len(shown) <= max(shown))
