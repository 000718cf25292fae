"""Spark's applications on YARN, each named by its job's tag: an example of an adapter of one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from msgspec import structs

from adapters.base import Check, Listing, Run, RunStatus, StopAnswer
from adapters.narrative.spark_outputs import Outputs
from adapters.registry import Surroundings
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import Handle, Rung
from control_plane.work import Work

ENGINE = "spark-yarn"
ENDS = {"KILLED": RunStatus.STOPPED, "FAILED": RunStatus.ERRORED, "SUCCEEDED": RunStatus.SUCCEEDED}
ACTIVE = {"NEW", "NEW_SAVING", "SUBMITTED", "ACCEPTED", "RUNNING"}


class YarnAdapter:
    engine = ENGINE
    per_executor = False

    def __init__(self, url: str, warehouse: str, around: Surroundings) -> None:
        self._http = httpx.AsyncClient(base_url=f"{url}/ws/v1/cluster", timeout=around.timeout_seconds)
        self._outputs = Outputs(Path(warehouse), timeout_seconds=around.timeout_seconds)
        self._ours = f"countermand:{around.installation}:{around.data_plane_id}:"

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        plane = await self.running(ended=True)
        return {w.job_id: structs.replace(plane, runs=tuple(r for r in plane.runs if r.tag == w.tag)) for w in works}

    async def running(self, *, ended: bool = False) -> Listing:
        began = await self._incarnation()
        apps = ((await self._ask("GET", "/apps")).json()["apps"] or {"app": []})["app"]
        runs = (_run(app, UUID(app["name"].split(":")[3])) for app in apps if app["name"].startswith(self._ours))
        told = tuple(run for run in runs if ended or run.status is RunStatus.ACTIVE)
        return Listing(told, complete=await self._incarnation() == began, incarnation=began)

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        kills = {run.handle: f"/apps/{run.handle.run_id}/state" for run in runs}
        told = {handle: await self._ask("PUT", path, json={"state": "KILLED"}) for handle, path in kills.items()}
        return {h: StopAnswer.ACCEPTED if answer.is_success else StopAnswer.NOT_PERMITTED for h, answer in told.items()}

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        return frozenset()  # nothing here refuses a late submission: executors close, or their permits run out

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        now = {run.handle: run for run in (await self.running(ended=True)).runs}
        return {run.handle: now.get(run.handle, structs.replace(run, status=RunStatus.GONE, word="")) for run in runs}

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        return await self._outputs.publish({work.job_id: work.publication for work in works if work.publication})

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        return await self._outputs.discard([work.job_id for work in works])

    async def check(self) -> Check:
        return Check(ok=True, detail=f"the resource manager answers; it was started at {await self._incarnation()}")

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._outputs.aclose()

    async def _incarnation(self) -> str:
        return str((await self._ask("GET", "/info")).json()["clusterInfo"]["startedOn"])

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **options)
            return answer if answer.status_code == httpx.codes.FORBIDDEN else answer.raise_for_status()
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"YARN does not answer: {error}") from error


def _run(app: Mapping[str, Any], job_id: UUID) -> Run:
    word = app["finalStatus"] if app["state"] == "FINISHED" else app["state"]
    status = RunStatus.ACTIVE if word in ACTIVE else ENDS.get(word, RunStatus.UNKNOWN)
    return Run(job_id, app["name"], Handle(ENGINE, app["id"].split("_")[1], app["id"]), status, word)


def for_plane(surroundings: Surroundings) -> YarnAdapter:
    if surroundings.options.keys() != {"url", "warehouse"}:
        raise BadInput(f"options: {ENGINE} needs url and warehouse, and knows no others", field="options")
    return YarnAdapter(**surroundings.options, around=surroundings)
