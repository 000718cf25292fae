"""Which jobs and planes somebody may see: those of a company, perhaps of one plane alone."""

from uuid import UUID

from msgspec import Struct


class Scope(Struct, frozen=True):
    """A company's, or everybody's for ``None``: an operator at the database itself.

    A job is seen by the company that submitted it and by the owner of its plane; a plane by its owner and by those whom
    it is shared with. A *data_plane_id* narrows this to that plane.
    """

    company_id: int | None = None
    data_plane_id: UUID | None = None

    def sees_plane(self, data_plane_id: UUID, owner: int, *, shared: bool) -> bool:
        """Whether a plane of this owner, *shared* with our company or not, is within the scope."""
        return self._covers(data_plane_id) and (self.company_id in (None, owner) or shared)

    def sees_job(self, data_plane_id: UUID, company_id: int, owner: int) -> bool:
        """Whether a job of this company, on a plane of this owner, is within the scope."""
        return self._covers(data_plane_id) and self.company_id in (None, company_id, owner)

    def _covers(self, data_plane_id: UUID) -> bool:
        return self.data_plane_id in (None, data_plane_id)


OPERATOR = Scope()
