"""How the account misbehaves; every switch may be turned at any time."""

import asyncio
import threading
import time
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, field

#: Whoever waits for a switch looks at it so often.
LOOK_SECONDS = 0.02


class Part(StrEnum):
    """The parts of the protocol, each of which may be silent by itself."""

    LOGIN = "login"
    SESSION = "session"  #: renewing, heartbeat, logout
    STATEMENT = "statement"
    RESULT = "result"
    STATUS = "status"  #: of one query
    LISTING = "listing"  #: of running queries
    ABORT = "abort"


class Way(StrEnum):
    """The ways of stopping a query."""

    CANCEL_QUERY = "SYSTEM$CANCEL_QUERY"
    ABORT_REQUEST = "abort-request"
    CANCEL_ALL_QUERIES = "SYSTEM$CANCEL_ALL_QUERIES"
    ABORT_SESSION = "SYSTEM$ABORT_SESSION"
    ABORT_ALL_QUERIES = "ALTER WAREHOUSE"


class Reading(StrEnum):
    """Statements that compute nothing, of which it is unverified whether they need a warehouse."""

    FUNCTIONS = "functions"  #: SYSTEM$… alone
    HISTORY = "history"  #: INFORMATION_SCHEMA.QUERY_HISTORY…


class Faults(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The defaults are an account that behaves."""

    lying: frozenset[Way] = frozenset()  #: these say that they stopped a query, and it runs on
    stop_seconds: dict[Way, float] = field(default_factory=dict)  #: a query stopped so burns on so long, ABORTING
    denied: frozenset[str] = frozenset()  #: users who may stop nobody else's query, whatever their roles say
    blind: frozenset[str] = frozenset()  #: users who are shown nobody else's query, whatever their roles say
    unheard_of: frozenset[str] = frozenset()  #: ids for which SYSTEM$CANCEL_QUERY fails, and its statement with it
    hidden: frozenset[str] = frozenset()  #: ids or tags of queries that no listing and no history shows; statuses do
    listing_limit: int | None = None  #: the most that a listing or history shows, without a word about the rest
    listing_seconds: float = 0.0  #: how long a listing or history takes; one that is under way as well
    history_lag_seconds: float = 0.0  #: starts and ends enter the history so much later
    statuses: dict[str, str] = field(default_factory=dict)  #: what is said of a query, by its id, its tag, or "*"
    unavailable: dict[Part, int] = field(default_factory=dict)  #: the next so many requests get 503
    hanging: frozenset[Part] = frozenset()  #: no answer; no effect for who gives up meanwhile
    lost_answers: dict[Part, int] = field(default_factory=dict)  #: effect, then the connection closes
    cut_answers: dict[Part, int] = field(default_factory=dict)  #: the same, in the middle of the answer
    late_seconds: float = 0.0  #: a statement is begun so much after it arrived; until then nobody knows of it
    resume_seconds: float = 0.0  #: how long a suspended warehouse takes to start; one that is about to as well
    sync_seconds: float = 45.0  #: how long a request waits for its result before it is told to poll for it
    account: str = "COUNTERMAND"  #: where whoever signs in from now on arrives: an address may come to lead elsewhere
    open_end: str | None = None  #: what the history gives as the end of a query that has none yet (unverified: NULL)
    needs_warehouse: frozenset[Reading] = frozenset()  #: which readings do not run without one
    logout_stops_queries: bool = True  #: "may be terminated by server", the connector says


class FaultBoard:
    """The faults now, and the counted ones counting down."""

    def __init__(self) -> None:
        self.now = Faults()

    def switch(self, changes: dict[str, Any]) -> None:
        """Set these, leave the others. Raises msgspec.ValidationError, and then nothing has changed."""
        self.now = msgspec.convert({**msgspec.to_builtins(self.now), **changes}, Faults)

    def clear(self) -> None:
        """Behave again."""
        self.now = Faults()

    async def pass_gate(self, part: Part) -> bool:
        """Wait while the part hangs; False where the request is to get 503."""
        while part in self.now.hanging:  # noqa: ASYNC110  faults are set from wherever
            await asyncio.sleep(LOOK_SECONDS)
        return not self._count_down("unavailable", part)

    async def pass_time(self, switch: str) -> None:
        """Wait for as many seconds as the switch says, now or meanwhile."""
        began = time.monotonic()
        while time.monotonic() < began + getattr(self.now, switch):  # noqa: ASYNC110  faults are set from wherever
            await asyncio.sleep(LOOK_SECONDS)

    def pass_time_unless(self, stopping: threading.Event, switch: str) -> None:
        """The same in a thread, but no longer than until *stopping* is set."""
        began = time.monotonic()
        while time.monotonic() < began + getattr(self.now, switch) and not stopping.wait(LOOK_SECONDS):
            pass

    def loses_answer(self, part: Part) -> bool:
        """Whether this answer is lost."""
        return self._count_down("lost_answers", part)

    def cuts_answer(self, part: Part) -> bool:
        """Whether this answer breaks off."""
        return self._count_down("cut_answers", part)

    def _count_down(self, switch: str, part: Part) -> bool:
        counts: dict[Part, int] = getattr(self.now, switch)
        left = counts.get(part, 0)
        if left > 0:
            self.switch({switch: {**counts, part: left - 1}})
        return left > 0
