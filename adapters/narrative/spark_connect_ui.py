"""What a Connect server's web UI tells of jobs' tasks: the second opinion on a run that is said to have ended.

Spark's REST API (``/api/v1``) names each Spark job's tags, which hold the session, and each stage's active tasks. It
knows the latest thousand jobs (``spark.ui.retainedJobs``), and tasks alone: of a run that is being planned it knows no
more than that it has not finished.

Here is also the one way to stop a run that has swallowed its interrupt: Connect interrupts an operation once, and what
comes of that nobody asks. Hadoop, for one, overlooks it while it waits for ``chmod``, before every write to a local
file system without its native library. A second interrupt does nothing then, nor does the end of the session.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TypeVar

import httpx
import msgspec
from msgspec import Struct

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_sight import Job, Sight, Stage, Statement
from adapters.narrative.spark_connect_threads import Thread, Threads, tasks
from control_plane.jobs import Waiting

Kind = TypeVar("Kind", bound=Struct)

#: In the page of running jobs, and another at each start of the server: no number is taken for a later start's job.
TOKEN = re.compile(r'name="csrfToken" value="([^"]+)"')


class Executor(Struct, frozen=True, rename="camel"):
    """A process that runs tasks; where there is no other, the driver."""

    id: str
    is_active: bool


class Ui:
    """A Connect server's web UI at *url*."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/",
            timeout=timeout_seconds,
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    async def look(self, application: str) -> Sight:
        """What it tells of this start of the server; operations first: whatever they begin meanwhile is seen.

        It may be late: see `Lookout`. Raises LineError where it does not answer, or not for this start.
        """
        with self._heard(application):
            statements = await self._all(application, "connect/operations", Statement)
            jobs = await self._all(application, "jobs", Job)
            stages = await self._all(application, "stages", Stage)
        return Sight.of(statements, jobs, stages)

    async def threads(self, application: str) -> Threads:
        """The driver's threads that prepare parts of queries. Raises LineError as `look` does."""
        return Threads.among(await self._dump(application, "driver"))

    async def tasks(self, application: str) -> Mapping[int, int]:
        """How many tasks run by the dumps of all executors' threads, by stage. Raises LineError as `look` does."""
        with self._heard(application):
            executors = await self._all(application, "executors", Executor)
        dumps = await asyncio.gather(*(self._dump(application, one.id) for one in executors if one.is_active))
        return tasks(chain.from_iterable(dumps))

    async def _dump(self, application: str, executor: str) -> list[Thread]:
        with self._heard(application):
            return await self._all(application, f"executors/{executor}/threads", Thread)

    @contextlib.contextmanager
    def _heard(self, application: str) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            detail = unheard(str(self._client.base_url), application, error)
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


def unheard(url: str, application: str, error: httpx.HTTPError | msgspec.DecodeError) -> str:
    """Why the web UI told nothing, in one sentence; where it may be another server's, the setting that leads there."""
    at = f"the web UI at {url.rstrip('/')}"
    match error:
        case httpx.TimeoutException():
            return f"{at} did not answer in time"
        case httpx.HTTPStatusError(response=response):
            said = f"{at} answered {response.status_code}: {response.reason_phrase}".removesuffix(": ")
            if response.is_server_error:
                return said
        case msgspec.DecodeError():
            said = f"{at} answered something else than Spark's REST API"
        case _:
            said = f"{at} cannot be reached: {str(error) or type(error).__name__}"
    remedy = "has to be where the log of the Connect server says that its SparkUI was started"
    usual = "port 4040 by default, or the next that was free"
    return f"{said}; ui_url in [spark] {remedy}, and shows {application} ({usual})"
