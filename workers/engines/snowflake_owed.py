"""Which jobs may have an output in Snowflake that no reader sees, and what becomes of those outputs."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from adapters.snowflake.line import LineError
from adapters.snowflake.outputs import Outputs
from control_plane.work import Claim


class Owed:
    """Looked for once; afterwards it is known what this executor has written.

    Looking again and again would keep the warehouse from ever being suspended.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._jobs: set[UUID] = set()
        self._looked = False

    def add(self, job_id: UUID) -> None:
        """The job writes from now on."""
        self._jobs.add(job_id)

    async def jobs(self) -> list[UUID]:
        """All of them. Raises LineError."""
        if not self._looked:
            self._jobs.update(await self._outputs.unpublished())
            self._looked = True
        return list(self._jobs)

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs, each by itself; raises LineError only when none could be."""
        published: set[UUID] = set()
        failed: LineError | None = None
        for claim in claims:
            try:
                published |= {claim.job_id} if await self._publish(claim) else set()
            except LineError as error:
                failed = error
        if failed is not None and not published:
            raise failed
        return frozenset(published)

    async def _publish(self, claim: Claim) -> bool:
        if claim.publication is None:
            return False
        published = await self._outputs.publish(claim.tag, claim.job_id, claim.publication)
        if published:
            self._jobs.discard(claim.job_id)
        return published

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove what these jobs wrote, given with their tags, and no reader was shown. Raises LineError."""
        removed = await self._outputs.discard(jobs)
        self._jobs.difference_update(jobs)
        return removed
