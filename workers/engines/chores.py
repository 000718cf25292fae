"""What an engine does beside its jobs' runs, in the background: nobody waits for it, and it is not left behind."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any


class Chores:
    """One engine's; whoever closes the engine finishes or cancels them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, chore: Coroutine[Any, Any, None]) -> None:
        """Have it done meanwhile."""
        task = asyncio.create_task(chore)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, *, within_seconds: float) -> None:
        """Wait for so long until all are done."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_seconds)

    async def cancel(self) -> None:
        """Give up what is under way."""
        await cancel_all(self._tasks)


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Give these up; answers once they are over."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
