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
    """A caller, and since when, by the clock and by the number of the latest look, that is known."""

    def __init__(self, caller: Caller, now: float, look: int) -> None:
        self.caller = caller
        self.until = now + REMEMBER_SECONDS
        self.look = look
        self.used_at = self.noted_at = now


class Callers:
    """The callers of one server."""

    def __init__(self, look_up: Together[str, Caller]) -> None:
        self._look_up = look_up
        self._known: dict[bytes, _Known] = {}
        self._begun = 0  #: looks
        self._ended = 0  #: the latest look that has ended
        self._certain_until = 0.0  #: what that look was about

    async def find(self, token: str) -> Caller:
        """Whose token this is; raises Unauthenticated. What was refused is not remembered."""
        key, now = hashlib.sha256(token.encode(errors="replace")).digest(), asyncio.get_running_loop().time()
        known = self._known.get(key)
        if known is not None and self._is_certain(known, now):
            known.used_at = now
            return known.caller
        began = self._begun
        caller = await self._look_up.ask(token)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = _Known(caller, now, began)
        return caller

    def _is_certain(self, known: _Known, now: float) -> bool:
        if now < known.until:
            return True
        looked_for = known.caller.data_plane_id is not None and known.look < self._ended
        return looked_for and now < self._certain_until

    async def look_through(self, ended: Callable[[Sequence[UUID], Sequence[UUID]], Awaitable[set[UUID]]]) -> None:
        """Ask which of the planes' processes' tokens have *ended*, and which use of them is to be noted."""
        now = asyncio.get_running_loop().time()
        self._forget(now)
        processes = {key: known for key, known in self._known.items() if known.caller.data_plane_id is not None}
        if not processes:
            return
        self._begun = look = self._begun + 1
        used = [known for known in processes.values() if known.used_at >= known.noted_at + _NOTE_SECONDS]
        gone = await ended(
            [known.caller.token_id for known in processes.values()], [known.caller.token_id for known in used]
        )
        for known in used:
            known.noted_at = now
        for key in [key for key, known in processes.items() if known.caller.token_id in gone] if gone else ():
            self._known.pop(key, None)
        self._ended, self._certain_until = look, now + 2 * REMEMBER_SECONDS

    def _forget(self, now: float) -> None:
        """Whoever has not called for long; people, who are looked up again anyway, as soon as they are not certain."""
        lately = now - _KEEP_SECONDS
        for key in [
            key
            for key, known in self._known.items()
            if known.used_at < lately or (known.caller.data_plane_id is None and known.until < now)
        ]:
            del self._known[key]
