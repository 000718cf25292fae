"""What a process does at intervals. APScheduler's jobs only set events; the work is done where the event is awaited."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from apscheduler.schedulers.asyncio import AsyncIOScheduler


class Duty(NamedTuple):
    """An event that is set every so many seconds."""

    name: str
    event: asyncio.Event
    seconds: float


def scheduled(duties: Iterable[Duty]) -> AsyncIOScheduler:
    """A scheduler of these duties, started on the running loop; a late tick is made up for once, not many times."""
    scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None})
    for duty in duties:
        scheduler.add_job(_setter(duty.event), "interval", seconds=duty.seconds, id=duty.name)
    scheduler.start()
    return scheduler


def _setter(event: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def tick() -> None:  # a coroutine function: APScheduler runs it on the loop, not in a thread
        event.set()

    return tick
