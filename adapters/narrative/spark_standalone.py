"""Cancelling dedicated applications on a standalone master: kill the driver, and believe its ``driverState`` alone.

Which drivers are a job's, its handle and the warehouse's scripts tell; there a job is closed as well. A master that was
started again may have forgotten a driver that lives on, so that one it does not know is never gone. The incarnation
is the name of the folder of scripts: absence is told by that folder, which survives the master, and by nothing else.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

from msgspec import structs

from adapters.base import ENDED, Check, Listing, Run, StopAnswer, Trouble
from adapters.narrative.spark_outputs import Outputs
from adapters.narrative.spark_standalone_fates import DRIVER_ID, Fate
from adapters.narrative.spark_standalone_line import ENGINE, LOOK_AGAIN_SECONDS, MasterError, MasterLine
from adapters.narrative.spark_standalone_listings import (
    Left,
    driver_named,
    drivers_of,
    is_idle,
    own_listing,
    seen,
    tracked_listing,
    unseen,
)
from adapters.narrative.spark_standalone_scripts import Scripts, State, job_of
from adapters.registry import Surroundings
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import Handle, Rung, Waiting
from control_plane.work import Work

OPTIONS = ("master_url", "warehouse", "ui_url", "token")
REMEMBERED = 10_000


class SparkStandaloneAdapter:
    """The adapter of a plane's ``dedicated`` cluster. No call to the master lasts longer than *timeout_seconds*.

    *ui_url* is the master's web UI: a run has ended only once no worker that it shows has an executor of it.
    """

    engine = ENGINE
    per_executor = False

    def __init__(
        self,
        master_url: str,
        warehouse: Path,
        *,
        installation: str,
        data_plane_id: UUID,
        timeout_seconds: float = 10.0,
        ui_url: str,
        token: str | None = None,
    ) -> None:
        self._prefix = f"countermand:{installation}:{data_plane_id}:"
        self._line = MasterLine(master_url, timeout_seconds=timeout_seconds, ui_url=ui_url, token=token)
        self._scripts = Scripts(warehouse, timeout_seconds=timeout_seconds)
        self._outputs = Outputs(warehouse, timeout_seconds=timeout_seconds)
        self._ends: dict[str, Fate] = {}  #: as each driver's end was first told: the master's answer bears its clock

    # --- finding

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's drivers, by its handle and by its script; of a tracked one what its handle names, with no owner.

        A standalone master does not tell to whom a driver belongs, so that nobody can be allowed to stop those. While
        the warehouse is away, what a handle names can be stopped all the same.
        """
        try:
            return await self._find(works) if works else {}
        except EngineUnavailable as error:
            return dict.fromkeys((work.job_id for work in works), Listing(trouble=_trouble(error)))

    async def _find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        here = await self._scripts.name()
        tags = [work.tag for work in works if work.tracked is None]
        try:
            states, silence = await self._scripts.states(tags), None
        except EngineUnavailable as error:
            states, silence = dict.fromkeys(tags, State(begun=True)), _trouble(error)
        drivers = {work.job_id: drivers_of(work, states.get(work.tag), here) for work in works}
        ended = frozenset(driver_id for state in states.values() for driver_id in state.ended)
        fates = await self._fates({driver_id for ids in drivers.values() for driver_id in ids}, ended)
        named = {work.job_id: unseen(work, drivers[work.job_id], here) for work in works}
        left = await self._executors_left([run for runs in named.values() for run in runs], fates)
        listings: dict[UUID, Listing] = {}
        for work in works:
            runs = tuple(seen(run, fates, left) for run in named[work.job_id])
            listing = tracked_listing(runs, here) if work.tracked else own_listing(runs, states[work.tag], here)
            if left.silence is not None and any(fates[run.handle.run_id].run_status in ENDED for run in runs):
                listing = Listing(runs, incarnation=here, trouble=left.silence)
            if silence is not None:
                listing = Listing(runs, incarnation=here, trouble=silence)
            listings[work.job_id] = structs.replace(listing, again_seconds=LOOK_AGAIN_SECONDS)
        return listings

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """What the master says of each driver now; of one that it does not know nothing is known."""
        if not runs:
            return {}
        here = await self._scripts.name()
        asked = [run for run in runs if driver_named(run.handle, here) is not None]
        fates = await self._fates({run.handle.run_id for run in asked}, await self._ended(asked))
        known = [run for run in asked if run.handle.run_id in fates]
        left = await self._executors_left(known, fates)
        return {run.handle: seen(run, fates, left) for run in known}

    async def running(self) -> Listing:
        """Every active run of the plane's jobs; complete where no driver can be missing."""
        try:
            here = await self._scripts.name()
            tags = await self._scripts.tags(self._prefix)
            listings = await self._find([Work(job_id, tag) for tag in tags if (job_id := job_of(tag)) is not None])
        except EngineUnavailable as error:
            return Listing(trouble=_trouble(error))
        trouble = next((listing.trouble for listing in listings.values() if not listing.complete), None)
        active = tuple(run for listing in listings.values() for run in listing.runs if run.status not in ENDED)
        return Listing(active, complete=trouble is None, incarnation=here, trouble=trouble)

    async def _ended(self, runs: Sequence[Run]) -> frozenset[str]:
        """The drivers of these runs whose applications have told that they have ended, as far as can be seen."""
        with contextlib.suppress(EngineUnavailable):
            states = await self._scripts.states({run.tag for run in runs if run.tag})
            return frozenset(driver_id for state in states.values() for driver_id in state.ended)
        return frozenset()

    async def _fates(self, driver_ids: Collection[str], ended: Collection[str]) -> Mapping[str, Fate]:
        """Of drivers of which some have told themselves that they have ended. An end stays as it was first told."""
        asked = [driver_id for driver_id in driver_ids if driver_id not in self._ends]
        told = {
            driver_id: fate._replace(log_ended=driver_id in ended)
            for driver_id, fate in (await self._line.fates(asked)).items()
        }
        self._ends |= {driver_id: fate for driver_id, fate in told.items() if fate.run_status in ENDED}
        while len(self._ends) > REMEMBERED:
            del self._ends[next(iter(self._ends))]
        return told | {driver_id: self._ends[driver_id] for driver_id in driver_ids if driver_id in self._ends}

    async def _executors_left(self, runs: Sequence[Run], fates: Mapping[str, Fate]) -> Left:
        """What is left of applications whose drivers have ended: those alone depend on it."""
        ended = [run for run in runs if fates[run.handle.run_id].run_status in ENDED]
        if not ended:
            return Left()
        try:
            at = await self._scripts.executors_at({run.tag for run in ended if fates[run.handle.run_id].is_by_log})
            return Left(await self._line.with_executors({run.tag for run in ended}, at))
        except EngineUnavailable as error:
            return Left(silence=_trouble(error))

    # --- stopping and closing

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:  # noqa: ARG002  one rung
        """Have the drivers killed; there is no harder way: the worker kills the process after ten seconds."""
        return dict(await asyncio.gather(*(self._kill(run.handle) for run in runs)))

    async def _kill(self, handle: Handle) -> tuple[Handle, StopAnswer]:
        """Refused is what has ended, what the master does not know, and anything at all by one that does not lead."""
        if not DRIVER_ID.fullmatch(handle.run_id):
            return handle, StopAnswer.UNREACHABLE
        try:
            if await self._line.kill(handle.run_id):
                return handle, StopAnswer.ACCEPTED
            ended = (await self._line.fate(handle.run_id)).run_status in ENDED
        except MasterError as error:
            refused = error.trouble.waiting is Waiting.NOT_PERMITTED
            return handle, StopAnswer.NOT_PERMITTED if refused else StopAnswer.UNREACHABLE
        return handle, StopAnswer.ALREADY_ENDED if ended else StopAnswer.UNREACHABLE

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Take each job's script away, whether or not it was begun; answers the jobs for which that is certain."""
        own = [work for work in works if work.tracked is None]
        try:
            here = await self._scripts.name() if own else ""
        except EngineUnavailable:
            return frozenset()
        ours = [work for work in own if _claimed_in(work) in (None, here)]
        closed = [await self._closed(work) for work in ours]
        return frozenset(work.job_id for work, is_closed in zip(ours, closed, strict=True) if is_closed)

    async def _closed(self, work: Work) -> bool:
        try:
            await self._scripts.close(work.tag)
        except EngineUnavailable:
            return False
        return True

    # --- effects

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Publish in the warehouse; works without a publication are left out."""
        orders = {work.job_id: work.publication for work in works if work.publication is not None}
        published = await self._outputs.publish(orders) if orders else frozenset()
        with contextlib.suppress(EngineUnavailable):  # what stays is in nobody's way
            await self._scripts.forget([work.tag for work in works if work.job_id in published])
        return published

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove what these jobs wrote, except those of which a driver may still write."""
        listings = await self.find(works)
        idle = [work for work in works if is_idle(listings[work.job_id])]
        removed = await self._outputs.discard([work.job_id for work in idle]) if idle else {}
        return {work.job_id: removed.get(work.job_id, ()) for work in idle}

    # --- itself

    async def check(self) -> Check:
        """Whether the master takes orders to kill, tried on no driver at all, and the warehouse can be written.

        And its web UI and its workers': without them no cancellation would be settled.
        """
        began = monotonic()
        try:
            version = await self._line.try_orders()
            workers = await self._line.try_ui()
            await self._scripts.name()
            await self._outputs.prepare()
        except EngineUnavailable as error:
            return Check(ok=False, detail=error.message, seconds=monotonic() - began)
        takes_orders = f"{self._line.url} takes orders as a Spark {version} master"
        shown = "its workers' web UIs show executors" if workers else "no worker of it is alive, so that jobs wait"
        detail = f"{takes_orders}, {shown}, and its warehouse can be written"
        return Check(ok=True, detail=detail, seconds=monotonic() - began)

    async def aclose(self) -> None:
        """Let go of connections."""
        await asyncio.gather(self._line.aclose(), self._scripts.aclose(), self._outputs.aclose())


def for_plane(surroundings: Surroundings) -> SparkStandaloneAdapter:
    """The adapter as the registry makes it.

    Raises BadInput, naming the field, where the master or the warehouse is not configured.
    """
    options: dict[str, Any] = dict(surroundings.options)
    for name in ("master_url", "ui_url", "warehouse"):
        if not options.get(name):
            raise BadInput(f"options: {name} is needed for {ENGINE}", field=name)
    if unknown := sorted(options.keys() - set(OPTIONS)):
        allowed = ", ".join(OPTIONS)
        raise BadInput(f"options: unknown for {ENGINE}: {', '.join(unknown)}; allowed: {allowed}", field="options")
    return SparkStandaloneAdapter(
        **options | {"warehouse": Path(options["warehouse"])},
        installation=surroundings.installation,
        data_plane_id=surroundings.data_plane_id,
        timeout_seconds=surroundings.timeout_seconds,
    )


def _trouble(error: EngineUnavailable) -> Trouble:
    return error.trouble if isinstance(error, MasterError) else Trouble(Waiting.PLANE_SILENT, error.message)


def _claimed_in(work: Work) -> str | None:
    return work.handle.incarnation if work.handle is not None else work.incarnation
