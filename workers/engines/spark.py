"""Spark, as the executor of a Narrative plane with clusters sees it: each job is run by the engine of its cluster."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from uuid import UUID

import structlog

from control_plane.errors import Conflict, EngineUnavailable, Refused
from control_plane.jobs import ExecutionCluster, Handle, JobType
from control_plane.work import Claim, Served
from workers.clock import Clock
from workers.engines.base import Ending, Engine, NotStarted
from workers.outage import EngineOutage

log = structlog.get_logger()

ENGINE = "spark"
REMEMBERED = 10_000  #: tags; far more than an executor ever holds


class SparkEngine:
    """The engines of a plane's clusters as one; *parts* has at least one, the cluster first that jobs get by default.

    A job is told apart by its cluster, a run by the engine that its handle names, and a tag by where it was started.
    """

    name = ENGINE
    ends_with_executor = False  #: what was submitted, or is on its way, is in the hands of the clusters

    def __init__(self, parts: Mapping[ExecutionCluster, Engine], clock: Clock = Clock()) -> None:
        self._parts = dict(parts)
        self._clock = clock
        self._awaited: set[asyncio.Task[None]] = set()
        self._default = next(iter(self._parts))
        self._tags: OrderedDict[str, Engine | None] = OrderedDict()  #: None: closed before it was started

    def await_cluster(self, cluster: ExecutionCluster, join: Callable[[], Awaitable[Engine]]) -> None:
        """Serve a cluster that is away once *join*, tried again and again, opens its engine; nobody waits for it."""
        task = asyncio.create_task(self._join(cluster, join))
        self._awaited.add(task)
        task.add_done_callback(self._awaited.discard)

    async def _join(self, cluster: ExecutionCluster, join: Callable[[], Awaitable[Engine]]) -> None:
        outage = EngineOutage(self._clock, what=f"the {cluster} cluster", is_away=_is_away)
        self._parts[cluster] = await outage.outlast(join)
        log.info("cluster_joined", cluster=cluster.value, incarnation=self._parts[cluster].incarnation)

    async def wait_no_more(self) -> None:
        """Leave away what is away."""
        for task in self._awaited:
            task.cancel()
        await asyncio.gather(*self._awaited, return_exceptions=True)

    @property
    def types(self) -> frozenset[JobType]:
        """What every cluster can run: a claim names types and clusters, and not which goes with which."""
        return frozenset.intersection(*(part.types for part in self._parts.values()))

    @property
    def clusters(self) -> Served:
        """The clusters that are served, each with the incarnation of its engine."""
        return {cluster: part.incarnation for cluster, part in self._parts.items()}

    @property
    def incarnation(self) -> str:
        """That of the first cluster's engine; a job is claimed on that of its own."""
        return self._parts[self._default].incarnation

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        """Begin the job's one run on its cluster."""
        if claim.tag in self._tags:
            raise Conflict(f"tag: {claim.tag} is closed, or was started before", field="tag")
        part = self._part_of(claim)
        self._remember(claim.tag, part)
        return await part.start(claim, permit_left)

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that no engine here started."""
        for part in self._parts.values():
            if part.name == handle.engine:
                return await part.follow(handle)
        raise EngineUnavailable(f"handle: {handle.run_id} is no run of this executor", field="handle")

    async def close(self, tag: str) -> bool:
        """Close the tag where it was started; one that was not, is not started any more."""
        part = self._tags.get(tag)
        if part is not None:
            return await part.close(tag)
        self._remember(tag, None)
        return True

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs, each on its cluster; raises only when none could be."""
        published: set[UUID] = set()
        away = {self._cluster_of(claim) for claim in claims} - self._parts.keys()
        silence = EngineUnavailable(f"{' and '.join(sorted(away))}: the cluster is away") if away else None
        for cluster, part in self._parts.items():
            own = [claim for claim in claims if self._cluster_of(claim) is cluster]
            try:
                published |= await part.publish(own) if own else frozenset()
            except EngineUnavailable as error:
                silence = error
        if silence is not None and not published:
            raise silence
        return frozenset(published)

    async def unpublished(self) -> list[UUID]:
        """The jobs of any cluster that have an output which no reader sees; each once."""
        found = [job_id for part in self._parts.values() for job_id in await part.unpublished()]
        return list(dict.fromkeys(found))

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Have each job's output removed where it was started, and that of an earlier start of the executor by all."""
        removed: dict[UUID, tuple[str, ...]] = {}
        for part in self._parts.values():
            own = {job_id: tag for job_id, tag in jobs.items() if self._tags.get(tag, part) in (part, None)}
            for job_id, names in (await part.discard(own)).items() if own else ():
                removed[job_id] = (*removed.get(job_id, ()), *names)
        return removed

    def check(self) -> None:
        """Raise EngineUnavailable when one of the engines is beyond use."""
        for part in self._parts.values():
            part.check()

    async def aclose(self) -> None:
        """Stop what runs and let go of the engines, of each whatever becomes of the others."""
        await self.wait_no_more()
        async with AsyncExitStack() as closing:
            for part in self._parts.values():
                closing.push_async_callback(part.aclose)

    def _cluster_of(self, claim: Claim) -> ExecutionCluster:
        return claim.execution_cluster or self._default

    def _part_of(self, claim: Claim) -> Engine:
        cluster = self._cluster_of(claim)
        if cluster not in self._parts:
            served = " and ".join(self._parts)
            raise NotStarted(
                f"execution_cluster: this executor serves {served}, not {cluster}", serves=list(self._parts)
            )
        return self._parts[cluster]

    def _remember(self, tag: str, part: Engine | None) -> None:
        self._tags[tag] = part
        while len(self._tags) > REMEMBERED:
            self._tags.popitem(last=False)


def _is_away(error: BaseException) -> bool:
    """Also what refuses us now may be mended while the other clusters are served."""
    return isinstance(error, EngineUnavailable | Refused)
