"""The warehouse as the event loop uses it: in threads, set-wise, no call longer than its time-out."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from adapters.narrative.spark_warehouse import Output, Warehouse
from control_plane.errors import EngineUnavailable
from control_plane.work import Publication

Told = TypeVar("Told")

THREADS = 4  #: a file system that hangs keeps these, and no other thread of the process


class Outputs:
    """What jobs of one plane wrote to its warehouse. Raises EngineUnavailable for whatever the file system refuses.

    Several processes may use it at once, and each may die at any time: every call can be repeated, by anybody.
    """

    def __init__(self, root: Path, *, timeout_seconds: float = 30.0) -> None:
        self._warehouse = Warehouse(root)
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="warehouse")

    @property
    def root(self) -> Path:
        """The warehouse."""
        return self._warehouse.root

    def place(self, output: Output) -> str:
        """Where Spark writes the output, as its own URL; nothing may be there before."""
        return self._warehouse.place(output)

    def folder(self, output: Output) -> Path:
        """The same as a folder here."""
        return self._warehouse.folder(output)

    async def prepare(self) -> None:
        """See that outputs can be written and removed here."""
        await self._in_thread(self._warehouse.prepare)

    async def publish(self, orders: Mapping[UUID, Publication]) -> frozenset[UUID]:
        """Show these jobs' outputs to readers, only ever to a higher number; answers those whose publication stands.

        Each by itself; raises only when none could be published.
        """
        done = await self._each({job_id: partial(self._warehouse.publish, job_id, orders[job_id]) for job_id in orders})
        return frozenset(job_id for job_id, stands in done.items() if stands)

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader was ever shown."""
        return await self._in_thread(self._warehouse.unpublished)

    async def discard(self, jobs: Collection[UUID]) -> dict[UUID, tuple[str, ...]]:
        """Remove what these jobs wrote and no reader was shown; answers what was removed, by job.

        For jobs of which nothing writes any more; late tasks may, so that it is repeated while ``unpublished`` tells
        of the job. Each by itself; raises only when nothing could be removed.
        """
        done = await self._each({job_id: partial(self._warehouse.discard, job_id) for job_id in jobs})
        return {job_id: removed for job_id, removed in done.items() if removed}

    async def take_answer(self, job_id: UUID) -> bytes | None:
        """The row of JSON that a job without effects wrote, which is then removed; None where there is no whole one."""
        return await self._in_thread(partial(self._warehouse.take_answer, job_id))

    async def aclose(self) -> None:
        """Wait for nothing: what is under way is finished or repeated by somebody."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _each(self, calls: Mapping[UUID, Callable[[], Told]]) -> dict[UUID, Told]:
        answers = await asyncio.gather(*(self._in_thread(call) for call in calls.values()), return_exceptions=True)
        told = dict(zip(calls, answers, strict=True))
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        given = {job_id: answer for job_id, answer in told.items() if not isinstance(answer, BaseException)}
        if failed and not given:
            raise failed[0]
        return given

    async def _in_thread(self, call: Callable[[], Told]) -> Told:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError as error:
            message = f"warehouse: {self._warehouse.root} did not answer within {self._timeout_seconds:g} s"
            raise EngineUnavailable(message) from error
        except OSError as error:
            raise EngineUnavailable(f"warehouse: {error.filename or self._warehouse.root}: {error.strerror}") from error
