"""Cancelling on a Narrative plane with clusters of Spark: each job is asked of whatever runs on its cluster.

Jobs are told apart by their cluster, runs by the engine that their handle names. One cluster's silence is an answer
about its own jobs alone.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from msgspec import structs

from adapters.base import Adapter, Check, Listing, Run, StopAnswer, Trouble
from adapters.registry import Surroundings, adapter_factory
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import ExecutionCluster, Handle, Rung, Waiting
from control_plane.work import Work

ENGINE = "spark"
#: By which adapter of the registry a cluster is cancelled on, unless the settings name another.
PARTS: Mapping[ExecutionCluster, str] = {
    ExecutionCluster.SHARED: "spark-connect",
    ExecutionCluster.DEDICATED: "spark-standalone",
}

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Key = TypeVar("Key")


class SparkAdapter:
    """The adapters of a plane's clusters as one; *parts* has at least one, the cluster first that jobs get by default.

    EngineUnavailable is raised only when no cluster that was asked has answered.
    """

    engine = ENGINE
    per_executor = False

    def __init__(self, parts: Mapping[ExecutionCluster, Adapter]) -> None:
        self._parts = dict(parts)
        self._default = next(iter(self._parts))
        self._by_engine = {part.engine: cluster for cluster, part in self._parts.items()}

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's runs, as its cluster lists them, with the name of the engine there."""
        told = await self._tell(self._by_cluster(works), lambda part, some: part.find(some))
        return {work.job_id: self._listing(work, told) for work in works}

    def _listing(
        self, work: Work, told: Mapping[ExecutionCluster, Mapping[UUID, Listing] | EngineUnavailable]
    ) -> Listing:
        cluster = work.execution_cluster or self._default
        answer = told.get(cluster)
        if answer is None:
            detail = f"the job runs on a {cluster} cluster, and its data plane has {' and '.join(self._parts)}"
            return Listing(trouble=Trouble(Waiting.ADAPTER_ERROR, detail))
        if isinstance(answer, EngineUnavailable):
            return Listing(trouble=Trouble(Waiting.PLANE_SILENT, answer.message))
        return structs.replace(answer.get(work.job_id, Listing()), engine=self._parts[cluster].engine)

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        """Ask each run's own engine to stop it."""
        return _merged(await self._told(self._by_handle(runs), lambda part, some: part.stop(some, rung)))

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """End each job's session or application on its cluster."""
        return _united(await self._told(self._by_cluster(works), lambda part, some: part.close(some)))

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """What each run's own engine says of it now; those of a silent one are left out."""
        return _merged(await self._told(self._by_handle(runs), lambda part, some: part.observe(some)))

    async def running(self) -> Listing:
        """The active runs on every cluster; complete when all of them are."""
        everything: dict[ExecutionCluster, list[Work]] = {cluster: [] for cluster in self._parts}
        told = await self._tell(everything, lambda part, _: part.running())
        listings = [
            Listing(trouble=Trouble(Waiting.PLANE_SILENT, listing.message))
            if isinstance(listing, EngineUnavailable)
            else listing
            for listing in told.values()
        ]
        return Listing(
            runs=tuple(run for listing in listings for run in listing.runs),
            complete=all(listing.complete for listing in listings),
            trouble=next((listing.trouble for listing in listings if listing.trouble is not None), None),
        )

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Publish what committed jobs wrote, each on its cluster."""
        return _united(await self._told(self._by_cluster(works), lambda part, some: part.publish(some)))

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove what unpublished jobs wrote, each on its cluster."""
        return _merged(await self._told(self._by_cluster(works), lambda part, some: part.discard(some)))

    async def check(self) -> Check:
        """Whether work on every cluster can be cancelled now; the seconds of the slowest."""
        checks = dict(zip(self._parts, await asyncio.gather(*map(_check, self._parts.values())), strict=True))
        drills = [check.seconds for check in checks.values() if check.seconds is not None]
        return Check(
            ok=all(check.ok for check in checks.values()),
            detail="; ".join(f"{cluster}: {check.detail}" for cluster, check in checks.items()),
            seconds=max(drills, default=None),
        )

    async def aclose(self) -> None:
        """Let go of every cluster's connections."""
        for part in self._parts.values():
            await part.aclose()

    # --- which part

    def _by_cluster(self, works: Iterable[Work]) -> dict[ExecutionCluster, list[Work]]:
        """The works of each cluster; those of one that the plane does not have are left out."""
        found: defaultdict[ExecutionCluster, list[Work]] = defaultdict(list)
        for work in works:
            cluster = work.execution_cluster or self._default
            if cluster in self._parts:
                found[cluster].append(work)
        return dict(found)

    def _by_handle(self, runs: Iterable[Run]) -> dict[ExecutionCluster, list[Run]]:
        """The runs of each engine; one that no engine here gave its name to is left out, and so unknown."""
        found: defaultdict[ExecutionCluster, list[Run]] = defaultdict(list)
        for run in runs:
            if run.handle.engine in self._by_engine:
                found[self._by_engine[run.handle.engine]].append(run)
        return dict(found)

    async def _told(
        self,
        asked: Mapping[ExecutionCluster, Sequence[Item]],
        ask: Callable[[Adapter, Sequence[Item]], Awaitable[Answer]],
    ) -> list[Answer]:
        """What those answered that did; raises EngineUnavailable where others were asked, and none answered."""
        told = list((await self._tell(asked, ask)).values())
        answers = [answer for answer in told if not isinstance(answer, EngineUnavailable)]
        for silence in told:
            if isinstance(silence, EngineUnavailable) and not answers:
                raise silence
        return answers

    async def _tell(
        self,
        asked: Mapping[ExecutionCluster, Sequence[Item]],
        ask: Callable[[Adapter, Sequence[Item]], Awaitable[Answer]],
    ) -> dict[ExecutionCluster, Answer | EngineUnavailable]:
        """What each cluster answers about its own, or that it is silent; all are asked at once."""

        async def answer_of(cluster: ExecutionCluster) -> Answer | EngineUnavailable:
            try:
                return await ask(self._parts[cluster], asked[cluster])
            except EngineUnavailable as silence:
                return silence

        return dict(zip(asked, await asyncio.gather(*map(answer_of, asked)), strict=True))


def for_plane(surroundings: Surroundings) -> SparkAdapter:
    """The adapter as the registry makes it.

    Its option: *parts*, by cluster the name of its own adapter and what that is told, the plane's first cluster first.
    """
    if unknown := ", ".join(sorted(surroundings.options.keys() - {"parts"})):
        raise BadInput(f"options: unknown for {ENGINE}: {unknown}; allowed: parts", field="options")
    parts: Mapping[ExecutionCluster, tuple[str, Mapping[str, Any]]] = surroundings.options.get("parts", {})
    names = [name for name, _ in parts.values()]
    if len(set(names)) < len(names):  # runs are told apart by their engine
        message = f"options: {names[0]} is the adapter of several clusters, whose runs could not be told apart"
        raise BadInput(message, field="options")
    if not parts:
        raise BadInput(f"options: {ENGINE} needs parts, at least one", field="options")
    return SparkAdapter({cluster: _part(surroundings, *part) for cluster, part in parts.items()})


def _part(surroundings: Surroundings, name: str, options: Mapping[str, Any]) -> Adapter:
    return adapter_factory(name)(structs.replace(surroundings, options=options))


async def _check(part: Adapter) -> Check:
    try:
        return await part.check()
    except EngineUnavailable as silence:
        return Check(ok=False, detail=silence.message)


def _merged(answers: Iterable[Mapping[Key, Answer]]) -> dict[Key, Answer]:
    return {key: value for answer in answers for key, value in answer.items()}


def _united(answers: Iterable[frozenset[UUID]]) -> frozenset[UUID]:
    return frozenset[UUID]().union(*answers)
