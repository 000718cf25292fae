"""Something real, with the test's own hand before and after each of its calls: to hold it up, to fail it, to end it."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

Real = TypeVar("Real")

Moment = Callable[[str], Awaitable[None]]


async def nothing(_call: str) -> None:
    """Let the call pass."""


def interposed(real: Real, *, before: Moment = nothing, after: Moment = nothing) -> Real:
    """*real*, each of whose async methods awaits *before* and *after* with its name; what these raise is raised."""
    return cast("Real", _Interposed(real, before, after))


class _Interposed:
    def __init__(self, real: object, before: Moment, after: Moment) -> None:
        self._real = real
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._wrapped(name, found) if inspect.iscoroutinefunction(found) else found

    def _wrapped(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            await self._before(name)
            answer = await call(*args, **kwargs)
            await self._after(name)
            return answer

        return wrapped
