"""Waiting for one thing, unless another comes first."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


async def unless(event: asyncio.Event, call: Coroutine[Any, Any, Answer]) -> Answer | None:
    """What *call* answers; None once *event* is set before: the call is cancelled then, wherever it is."""
    calling, waiting = asyncio.ensure_future(call), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({calling, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return calling.result() if calling.done() else None
    finally:
        calling.cancel()
        waiting.cancel()
        await asyncio.gather(calling, waiting, return_exceptions=True)
