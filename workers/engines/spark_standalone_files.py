"""What dedicated applications leave in the warehouse: outputs and answers, and the scripts that they were begun by."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from uuid import UUID

from adapters.narrative.spark_outputs import Outputs
from adapters.narrative.spark_standalone_scripts import Scripts, job_of
from adapters.narrative.spark_warehouse import WHOLE
from control_plane.errors import EngineUnavailable
from control_plane.work import Claim
from workers.engines.spark_plans import Plan, Rows, count_rows, read_answer
from workers.outage import Outage


class Files:
    """A script stays for as long as anything of its job may be left: whoever looks for leftovers finds it by that."""

    def __init__(self, scripts: Scripts, outputs: Outputs, outage: Outage) -> None:
        self._scripts = scripts
        self._outputs = outputs
        self._outage = outage

    async def are_whole(self, planned: Plan) -> bool:
        """Whether the application wrote all that it was to write."""
        mark = self._outputs.folder(planned.written) / WHOLE
        return await self._outage.outlast(partial(self._scripts.look, mark.is_file))

    async def rows(self, planned: Plan) -> int:
        """The number that the result wants; an answer is gone afterwards. Raises EngineUnavailable."""
        if planned.rows is Rows.ANSWERED:
            return read_answer(await self._outage.outlast(partial(self._outputs.take_answer, planned.job_id)))
        if planned.rows is Rows.WRITTEN:
            return await self._scripts.look(partial(count_rows, self._outputs.folder(planned.written)))
        return 0

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs; those without a publication have nothing to show and are left out."""
        orders = {claim.job_id: claim.publication for claim in claims if claim.publication is not None}
        published = await self._outputs.publish(orders) if orders else frozenset()
        await self.forget([claim.tag for claim in claims if claim.job_id in published])
        return published

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader sees, or a script."""
        scripts = [job_of(tag) for tag in await self._scripts.tags("countermand:")]
        return list(dict.fromkeys([*await self._outputs.unpublished(), *(job_id for job_id in scripts if job_id)]))

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove what these jobs wrote, given with their tags; no driver may be left of them."""
        removed = await self._outputs.discard(jobs) if jobs else {}
        await self.forget([tag for job_id, tag in jobs.items() if job_id not in removed])  # and nothing came anew
        return removed

    async def forget(self, tags: Collection[str]) -> None:
        """Remove the scripts of these jobs, if the file system lets us."""
        with contextlib.suppress(EngineUnavailable):  # what stays is in nobody's way
            await self._scripts.forget(tags)
