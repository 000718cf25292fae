"""What a Connect server's web UI tells of jobs' tasks: the second opinion on a run that is said to have ended.

Spark's REST API (``/api/v1``) names each Spark job's tags, which hold the session, and each stage's active tasks. It
knows the latest thousand jobs (``spark.ui.retainedJobs``), and nothing of a run that is being planned.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import httpx
import msgspec
from msgspec import Struct, field

#: As Spark builds them; a user's name may hold whatever it likes.
SESSION_TAG = re.compile(r"SparkConnect_SessionTag_User_.*_Session_([0-9a-f-]{36})_Tag_(.+)")
OPERATION_TAG = re.compile(r"SparkConnect_OperationTag_User_.*_Session_([0-9a-f-]{36})_Operation_([0-9a-f-]{36})")
MOMENT = "%Y-%m-%dT%H:%M:%S.%f%Z"


class Job(Struct, frozen=True, rename="camel"):
    """One of Spark's own jobs, of which a run has any number."""

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


class Traces(NamedTuple):
    """What the UI knows of one operation: tasks that run, and when the last of its jobs ended."""

    active_tasks: int = 0
    ended_at: datetime | None = None


class Sight(NamedTuple):
    """One look at everything."""

    jobs: tuple[Job, ...]
    active: dict[int, int]  #: tasks by stage

    def traces(self, session_id: str, operation_id: str) -> Traces:
        """Those of an operation."""
        return self._traces(job for job in self.jobs if (session_id, operation_id) in job.operations)

    def operations(self, session_id: str) -> set[str]:
        """The operations of a session that have left any trace."""
        return {found[1] for job in self.jobs for found in job.operations if found[0] == session_id}

    def tagged(self, prefix: str) -> set[tuple[str, str]]:
        """Sessions and tags of which something runs, of the tags that begin so."""
        running = (job for job in self.jobs if job.status == "RUNNING" or self._traces([job]).active_tasks)
        return {found for job in running for found in job.tags if found[1].startswith(prefix)}

    def _traces(self, jobs: Iterable[Job]) -> Traces:
        own = list(jobs)
        stages = {stage for job in own for stage in job.stage_ids}
        ended = [moment(job.completion_time) for job in own if job.completion_time]
        return Traces(sum(self.active.get(stage, 0) for stage in stages), max(ended, default=None))


class Ui:
    """A Connect server's web UI at *url*."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._client = httpx.AsyncClient(base_url=f"{url.rstrip('/')}/api/v1/", timeout=timeout_seconds)

    async def look(self, application: str) -> Sight | None:
        """What it tells of this start of the server; None where it does not answer, or not for this one."""
        try:
            jobs = await self._client.get(f"applications/{application}/jobs")
            stages = await self._client.get(f"applications/{application}/stages")
            jobs.raise_for_status()
            stages.raise_for_status()
            return Sight(
                tuple(msgspec.json.decode(jobs.content, type=list[Job])),
                active_tasks(msgspec.json.decode(stages.content, type=list[Stage])),
            )
        except (httpx.HTTPError, msgspec.DecodeError):
            return None

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
