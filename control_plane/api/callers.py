"""Who calls: each token is looked up with those that arrive in the same moment, and remembered for a second.

Planes' processes call again and again, so their tokens are looked through once a second, all in one statement: whoever
holds a long poll is known when it calls again, and a revocation is heard within a second all the same.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from control_plane.api.together import Together
from control_plane.tokens import Caller

REMEMBER_SECONDS = 1.0  #: so a revocation is heard within a second, and a busy caller costs one look-up in it
_KEEP_SECONDS = 120.0  #: since its last call a process is looked after; longer than a long poll
_NOTE_SECONDS = 60.0
_MOST = 10_000


class _Known:
    """A caller, and until when that is certain."""

    def __init__(self, caller: Caller, now: float) -> None:
        self.caller = caller
        self.until = now + REMEMBER_SECONDS
        self.used_at = self.noted_at = now

    @property
    def is_unnoted(self) -> bool:
        return self.used_at >= self.noted_at + _NOTE_SECONDS


class Callers:
    """The callers of one server."""

    def __init__(self, look_up: Together[str, Caller]) -> None:
        self._look_up = look_up
        self._known: dict[bytes, _Known] = {}

    async def find(self, token: str) -> Caller:
        """Whose token this is; raises Unauthenticated. What was refused is not remembered."""
        key, now = hashlib.sha256(token.encode(errors="replace")).digest(), asyncio.get_running_loop().time()
        known = self._known.get(key)
        if known is not None and now < known.until:
            known.used_at = now
            return known.caller
        caller = await self._look_up.ask(token)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = _Known(caller, now)
        return caller

    async def look_through(self, ended: Callable[[Sequence[UUID], Sequence[UUID]], Awaitable[set[UUID]]]) -> None:
        """Ask which of the planes' processes' tokens have *ended*, and which use of them is to be noted."""
        now = asyncio.get_running_loop().time()
        for key in [key for key, known in self._known.items() if not _is_kept(known, now)]:
            del self._known[key]
        processes = [known for known in self._known.values() if known.caller.data_plane_id is not None]
        if not processes:
            return
        used = [known for known in processes if known.is_unnoted]
        gone = await ended([known.caller.token_id for known in processes], [known.caller.token_id for known in used])
        for known in used:
            known.noted_at = now
        for known in processes:
            known.until = 0.0 if known.caller.token_id in gone else now + 2 * REMEMBER_SECONDS


def _is_kept(known: _Known, now: float) -> bool:
    if known.caller.data_plane_id is None:
        return now < known.until
    return now < known.used_at + _KEEP_SECONDS
