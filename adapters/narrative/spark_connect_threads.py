"""What a dump of a Java's threads tells: which of the driver's prepare parts of queries, and what runs tasks."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from msgspec import Struct, field

#: The pools in which Spark 4.3.0 prepares parts of a query, by its own names for them: how many threads each may have
#: at most, the setting that says otherwise, and its default.
POOLS: Mapping[str, tuple[str | None, int]] = {
    "QueryStageCreator": (None, 16),
    "ResultQueryStageExecution": ("spark.sql.resultQueryStage.maxThreadThreshold", 1024),
    "broadcast-exchange": ("spark.sql.broadcastExchange.maxThreadThreshold", 128),
    "dynamicpruning": ("spark.sql.broadcastExchange.maxThreadThreshold", 128),
    "shuffle-exchange": ("spark.sql.shuffleExchange.maxThreadThreshold", 1024),
    "subquery": ("spark.sql.subquery.maxThreadThreshold", 16),
}
POOL = re.compile(rf"({'|'.join(POOLS)})-[0-9]+")
IDLE = "ThreadPoolExecutor.getTask"
#: Where a thread waits for what is seen elsewhere: a job of its own, its stages' next event, or another such thread.
WAITING = ("DAGScheduler.runJob", "LinkedBlockingQueue.take", "SubqueryExec.executeCollect(")
#: What a thread is called that runs a task, and until it has another; the stage is a task's own.
TASK = re.compile(r"Executor task launch worker for task \S+ in stage (\d+)\.\d+ \(TID \d+\)")


class StackTrace(Struct, frozen=True):
    """Where a thread is, the innermost call first."""

    elems: list[str] = field(default_factory=list)


class Thread(Struct, frozen=True, rename="camel"):
    """One of the driver's, or of an executor's."""

    thread_id: int
    thread_name: str
    stack_trace: StackTrace

    @property
    def pool(self) -> str | None:
        """The one of the pools that submit jobs for queries which it is of, if any."""
        found = POOL.match(self.thread_name)
        return found and found[1]

    @property
    def is_busy(self) -> bool:
        """Whether it is of such a pool, and has something to do."""
        return self.pool is not None and not self._is_in(IDLE)

    @property
    def stage(self) -> int | None:
        """That of the task which it runs, if any."""
        found = None if self._is_in(IDLE) else TASK.fullmatch(self.thread_name)
        return found and int(found[1])

    @property
    def prepares(self) -> bool:
        """Whether it may submit a job next, whatever becomes of others."""
        return self.is_busy and not any(map(self._is_in, WAITING))

    def _is_in(self, call: str) -> bool:
        return any(call in element for element in self.stack_trace.elems)


class Threads(NamedTuple):
    """The driver's threads that prepare parts of queries, by their numbers, all at one moment."""

    busy: frozenset[int]
    preparing: frozenset[int]  #: of these, those that wait for nothing: they may be about to submit a job
    pools: Mapping[str, int]  #: how many are busy in each

    @classmethod
    def among(cls, dump: Iterable[Thread]) -> Self:
        """Those of a dump."""
        busy = [thread for thread in dump if thread.is_busy]
        return cls(
            busy=frozenset(thread.thread_id for thread in busy),
            preparing=frozenset(thread.thread_id for thread in busy if thread.prepares),
            pools=Counter(thread.pool for thread in busy if thread.pool is not None),
        )

    def is_full(self, sizes: Mapping[str, int]) -> bool:
        """Whether something may stand in line before a pool: it is in no thread yet, and begins when one is free."""
        return any(busy >= sizes[pool] for pool, busy in self.pools.items())


def tasks(dump: Iterable[Thread]) -> Counter[int]:
    """How many threads run a task, by its stage."""
    return Counter(thread.stage for thread in dump if thread.stage is not None)
