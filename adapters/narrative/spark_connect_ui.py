"""What a Connect server's web UI tells of jobs' tasks: the second opinion on a run that is said to have ended.

Spark's REST API (``/api/v1``) names each Spark job's tags, which hold the session, and each stage's active tasks. It
knows the latest thousand jobs (``spark.ui.retainedJobs``), and tasks alone: of a run that is being planned it knows no
more than that it has not finished.

Here is also the one way to stop a run that has swallowed its interrupt: Connect interrupts an operation once, and what
comes of that nobody asks. Hadoop, for one, overlooks it while it waits for ``chmod``, before every write to a local
file system without its native library. A second interrupt does nothing then, nor does the end of the session.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import httpx
import msgspec
from msgspec import Struct, field, structs

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_names import Operation
from control_plane.jobs import Waiting

Kind = TypeVar("Kind", bound=Struct)

#: As Spark builds them; a user's name may hold whatever it likes.
SESSION_TAG = re.compile(r"SparkConnect_SessionTag_User_.*_Session_([0-9a-f-]{36})_Tag_(.+)")
OPERATION_TAG = re.compile(r"SparkConnect_OperationTag_User_.*_Session_([0-9a-f-]{36})_Operation_([0-9a-f-]{36})")
MOMENT = "%Y-%m-%dT%H:%M:%S.%f%Z"
#: In the page of running jobs, and another at each start of the server: no number is taken for a later start's job.
TOKEN = re.compile(r'name="csrfToken" value="([^"]+)"')
#: The pools in which Spark 4.3.0 prepares parts of a query, by its own names for them: how many threads each may have
#: at most, the setting that says otherwise, and its default.
POOLS: Mapping[str, tuple[str | None, int]] = {
    "QueryStageCreator": (None, 16),
    "ResultQueryStageExecution": ("spark.sql.resultQueryStage.maxThreadThreshold", 1024),
    "broadcast-exchange": ("spark.sql.broadcastExchange.maxThreadThreshold", 128),
    "dynamicpruning": ("spark.sql.broadcastExchange.maxThreadThreshold", 128),
    "shuffle-exchange": ("spark.sql.shuffleExchange.maxThreadThreshold", 1024),
    "subquery": ("spark.sql.subquery.maxThreadThreshold", 16),
}
POOL = re.compile(rf"({'|'.join(POOLS)})-[0-9]+")
IDLE = "ThreadPoolExecutor.getTask"
#: Where a thread waits for what is seen elsewhere: a job of its own, its stages' next event, or another such thread.
WAITING = ("DAGScheduler.runJob", "LinkedBlockingQueue.take", "SubqueryExec.executeCollect(")
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


class Stage(Struct, frozen=True, rename="camel"):
    """One attempt of a stage."""

    stage_id: int
    status: str = "UNKNOWN"
    num_active_tasks: int = 0

    @property
    def active_tasks(self) -> int:
        """While the stage is active, the UI learns of tasks that start with its next event only, which may be far.

        With the stage's end, also the end by a stop, the number is exact.
        """
        return max(self.num_active_tasks, 1 if self.status == "ACTIVE" else 0)


class StackTrace(Struct, frozen=True):
    """Where a thread is, the innermost call first."""

    elems: list[str] = field(default_factory=list)


class Thread(Struct, frozen=True, rename="camel"):
    """One of the driver's."""

    thread_id: int
    thread_name: str
    stack_trace: StackTrace

    @property
    def pool(self) -> str | None:
        """The one of the pools that submit jobs for queries which it is of, if any."""
        found = POOL.match(self.thread_name)
        return found and found[1]

    @property
    def is_busy(self) -> bool:
        """Whether it is of such a pool, and has something to do."""
        return self.pool is not None and not self._is_in(IDLE)

    @property
    def prepares(self) -> bool:
        """Whether it may submit a job next, whatever becomes of others."""
        return self.is_busy and not any(map(self._is_in, WAITING))

    def _is_in(self, call: str) -> bool:
        return any(call in element for element in self.stack_trace.elems)


class Threads(NamedTuple):
    """The driver's threads that prepare parts of queries, by their numbers, all at one moment."""

    busy: frozenset[int]
    preparing: frozenset[int]  #: of these, those that wait for nothing: they may be about to submit a job
    pools: Mapping[str, int]  #: how many are busy in each

    def is_full(self, sizes: Mapping[str, int]) -> bool:
        """Whether something may stand in line before a pool: it is in no thread yet, and begins when one is free."""
        return any(busy >= sizes[pool] for pool, busy in self.pools.items())


class Traces(NamedTuple):
    """What the UI knows of one operation."""

    active_tasks: int = 0
    running_jobs: int = 0  #: of Spark's own: their tasks may have yet to begin
    ended_at: datetime | None = None  #: the last of its jobs
    unfinished: bool = False  #: no end of it is known: it may begin more
    in_line: bool = False  #: a part of it may stand in line for a thread of the driver

    @property
    def computes(self) -> bool:
        """Whether tasks of it are active, or will be."""
        return bool(self.active_tasks or self.running_jobs or self.in_line)


class Sight(NamedTuple):
    """One look at everything."""

    jobs: tuple[Job, ...]
    active: dict[int, int]  #: tasks by stage
    unfinished: frozenset[tuple[str, str]] = frozenset()  #: sessions and operations of which it knows no end
    in_line: bool = False  #: something of anybody's may stand in line for a thread of the driver

    def since(self, earlier: "Sight") -> "Sight":
        """The same, and what has ended since *earlier* as running: whoever waited for it may begin more just now."""
        over = {job.job_id for job in earlier.jobs if job.status != "RUNNING"}
        jobs = (job if job.job_id in over else structs.replace(job, status="RUNNING") for job in self.jobs)
        return self._replace(jobs=tuple(jobs))

    def traces(self, session_id: str, operation_id: str) -> Traces:
        """Those of an operation."""
        name = (session_id, operation_id)
        traces = self._traces(job for job in self.jobs if name in job.operations)
        return traces._replace(unfinished=name in self.unfinished, in_line=self.in_line)

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


class Ui:
    """A Connect server's web UI at *url*."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._client = httpx.AsyncClient(base_url=f"{url.rstrip('/')}/", timeout=timeout_seconds)

    async def look(self, application: str) -> Sight:
        """What it tells of this start of the server; operations first: whatever they begin meanwhile is seen.

        It may be late: see `Lookout`. Raises LineError where it does not answer, or not for this start.
        """
        with self._heard(application):
            statements = await self._all(application, "connect/operations", Statement)
            jobs = await self._all(application, "jobs", Job)
            stages = await self._all(application, "stages", Stage)
        goes_on = ((one.session_id, one.operation_id) for one in statements if one.state not in FINISHED)
        return Sight(tuple(jobs), active_tasks(stages), frozenset(goes_on))

    async def threads(self, application: str) -> Threads:
        """The driver's threads that prepare parts of queries. Raises LineError as `look` does."""
        with self._heard(application):
            threads = await self._all(application, "executors/driver/threads", Thread)
        busy = [thread for thread in threads if thread.is_busy]
        return Threads(
            busy=frozenset(thread.thread_id for thread in busy),
            preparing=frozenset(thread.thread_id for thread in busy if thread.prepares),
            pools=Counter(thread.pool for thread in busy if thread.pool is not None),
        )

    @contextlib.contextmanager
    def _heard(self, application: str) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            detail = f"the web UI at {self._client.base_url} does not answer for {application}: {error!r}"
            raise LineError(Waiting.PLANE_SILENT, detail) from error

    async def _all(self, application: str, what: str, kind: type[Kind]) -> list[Kind]:
        response = await self._client.get(f"api/v1/applications/{application}/{what}")
        response.raise_for_status()
        return msgspec.json.decode(response.content, type=list[kind])  # type: ignore[valid-type]

    async def kill(self, application: str, session_id: str) -> bool:
        """Have all Spark jobs of the session cancelled, as somebody would who clicks on ``(kill)``; whether any was.

        That is no answer about their end. Nothing is done where the UI is away, or does not let jobs be killed.
        """
        with contextlib.suppress(httpx.HTTPError, LineError):
            page = await self._client.get("jobs/")
            token, sight = TOKEN.search(page.text), await self.look(application)
            if token is None:
                return False
            asked = [
                await self._client.post("jobs/job/kill/", data={"id": str(job), "csrfToken": token[1]})
                for job in sight.running(session_id)
            ]
            return any(response.is_success or response.has_redirect_location for response in asked)
        return False

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


def moment(text: str) -> datetime:
    """Spark's way to write one: ``2026-01-02T03:04:05.678GMT``."""
    return datetime.strptime(text, MOMENT).replace(tzinfo=UTC)


def active_tasks(stages: Iterable[Stage]) -> dict[int, int]:
    """By stage, in all of its attempts."""
    active: dict[int, int] = {}
    for stage in stages:
        active[stage.stage_id] = active.get(stage.stage_id, 0) + stage.active_tasks
    return active
