"""Who calls: each token is looked up with those that arrive in the same moment, and remembered for a second.

Planes' processes call again and again, so their tokens are looked after: once a second one statement counts how many
have ended, and only when that changes is each asked about. Whoever holds a long poll is known when it calls again, and
a revocation is heard within a second all the same.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from control_plane.api.together import Together
from control_plane.tokens import Caller, Tokens

Calling = Callable[..., Awaitable[Any]]  #: has a blocking call made elsewhere

REMEMBER_SECONDS = 1.0  #: so a revocation is heard within a second, and a busy caller costs one look-up in it
_KEEP_SECONDS = 120.0  #: since its last call a process is looked after; longer than a long poll
_FORGET_SECONDS = 10.0
_NOTE_SECONDS = 60.0
_MOST = 10_000


class _Known:
    """A caller, and since when, by the clock and by the number of the latest look, that is known."""

    def __init__(self, caller: Caller, now: float, look: int) -> None:
        self.caller = caller
        self.until = now + REMEMBER_SECONDS
        self.look = look
        self.is_looked_after = False  #: a look has found it valid since
        self.used_at = self.noted_at = now


class Callers:
    """The callers of one server."""

    def __init__(self, look_up: Together[str, Caller], tokens: Tokens, call: Calling) -> None:
        self._look_up = look_up
        self._tokens = tokens
        self._call = call
        self._counts: tuple[int, int] | None = None  #: of tokens, at the latest look that has ended
        self._known: dict[bytes, _Known] = {}
        self._begun = 0  #: looks
        self._ended = 0  #: the latest look that has ended
        self._certain_until = 0.0  #: what that look was about
        self._forget_at = 0.0

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

    async def look_through(self) -> None:
        """Look which of the planes' processes' tokens have ended, and note which were used."""
        now = asyncio.get_running_loop().time()
        self._forget(now)
        processes = {key: known for key, known in self._known.items() if known.caller.data_plane_id is not None}
        if not processes:
            return
        self._begun = look = self._begun + 1
        used = [known for known in processes.values() if known.used_at >= known.noted_at + _NOTE_SECONDS]
        await self._note_use(used, now)
        counts = await self._call(self._tokens.counts)
        if counts == self._counts:  # those of whom an earlier look knew are as valid as they were then
            doubtful = {key: known for key, known in processes.items() if not known.is_looked_after}
        else:
            doubtful = processes
        if doubtful:
            gone = await self._call(self._tokens.ended, [known.caller.token_id for known in doubtful.values()])
            for key, known in doubtful.items():
                known.is_looked_after = True
                if known.caller.token_id in gone:
                    self._known.pop(key, None)
        self._counts = counts
        self._ended, self._certain_until = look, now + 2 * REMEMBER_SECONDS

    async def _note_use(self, used: Sequence[_Known], now: float) -> None:
        if used:
            await self._call(self._tokens.note_use, [known.caller.token_id for known in used])
            for known in used:
                known.noted_at = now

    def _forget(self, now: float) -> None:
        """Now and then, whoever has not called for long, and people, who are looked up again anyway."""
        if now < self._forget_at:
            return
        self._forget_at, lately = now + _FORGET_SECONDS, now - _KEEP_SECONDS
        for key in [
            key
            for key, known in self._known.items()
            if known.used_at < lately or (known.caller.data_plane_id is None and known.until < now)
        ]:
            del self._known[key]
