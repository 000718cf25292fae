"""Who calls: each token is looked up with those that arrive in the same moment, and remembered for a second."""

import asyncio
import hashlib

from control_plane.api.together import Together
from control_plane.tokens import Caller

REMEMBER_SECONDS = 1.0  #: so a revocation is heard within a second, and a busy caller costs one look-up in it
_MOST = 10_000


class Callers:
    """The callers of one server."""

    def __init__(self, look_up: Together[str, Caller]) -> None:
        self._look_up = look_up
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def find(self, token: str) -> Caller:
        """Whose token this is; raises Unauthenticated. What was refused is not remembered."""
        key, now = hashlib.sha256(token.encode(errors="replace")).digest(), asyncio.get_running_loop().time()
        until, caller = self._known.get(key, (0.0, None))
        if caller is not None and now < until:
            return caller
        caller = await self._look_up.ask(token)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = (now + REMEMBER_SECONDS, caller)
        return caller
