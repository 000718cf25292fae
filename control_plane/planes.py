"""Data planes: where work runs, and whose work, started elsewhere, may be stopped there."""

from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from control_plane.errors import BadInput
from control_plane.jobs import ExecutionCluster, Moment


class Platform(StrEnum):
    """What a data plane runs on."""

    NARRATIVE = "platform_aws"
    SNOWFLAKE = "platform_snowflake"


Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=255)]], Meta(max_length=1_000)]


class Owner(Struct, frozen=True):
    """To whom a run belongs, as its engine says; what the engine does not know is None."""

    user: str | None = None
    warehouse: str | None = None
    role: str | None = None

    def __str__(self) -> str:
        known = [f"{name} {value}" for name, value in msgspec.structs.asdict(self).items() if value is not None]
        return ", ".join(known) or "nobody known"


class Tracking(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose work, started elsewhere, may be tracked on a plane and stopped: one match is enough, letter by letter."""

    users: Names = []
    warehouses: Names = []
    roles: Names = []

    def __str__(self) -> str:
        named = [f"{kind} {', '.join(names)}" for kind, names in msgspec.structs.asdict(self).items() if names]
        return "; ".join(named) or "nobody"

    def allows(self, owner: Owner | None) -> bool:
        """Whether the run of this owner may be stopped; nobody known is nobody allowed."""
        return owner is not None and (
            owner.user in self.users or owner.warehouse in self.warehouses or owner.role in self.roles
        )


class DataPlane(Struct, frozen=True):
    """Where work runs."""

    data_plane_id: UUID
    company_id: int  #: its owner
    display_name: str
    platform: Platform
    status: Literal["active", "archived"]
    external_id: str | None
    description: str | None
    tags: list[str]
    permit_seconds: float  #: how long a claim or an attend lets an executor submit statements
    listing_lag_seconds: float  #: how far apart two empty listings must be to mean absence
    stuck_after_seconds: float  #: a cancellation that waits longer is stuck
    created_at: Moment
    last_heartbeat_at: Moment | None
    silent: bool  #: no process of it was heard of for SILENT_AFTER_SECONDS
    collaborators: list[int] = []  #: the companies that it is shared with
    tracking: Tracking = Tracking()  #: whose work, started elsewhere, may be tracked on it
    execution_clusters: list[ExecutionCluster] = []  #: of Spark, the preferred one first; without any it takes all

    def cluster_for(self, asked: ExecutionCluster | None) -> ExecutionCluster | None:
        """Where a job runs that asks for this cluster, or for none. BadInput for one that the plane does not have.

        A plane without clusters runs everything in one engine, and keeps what was asked for as it was.
        """
        if not self.execution_clusters:
            return asked
        if asked is None:
            return self.execution_clusters[0]
        if asked not in self.execution_clusters:
            there = " and ".join(self.execution_clusters)
            message = (
                f"execution_cluster: {self.display_name} has no {asked} cluster, only {there}: "
                "name that, leave it out, or submit to another data plane"
            )
            raise BadInput(message, field="execution_cluster")
        return asked


def in_order(clusters: Collection[ExecutionCluster]) -> list[ExecutionCluster]:
    """Each of the clusters once, the one first that jobs get which name none."""
    return [cluster for cluster in ExecutionCluster if cluster in clusters]


#: By how much listings of a platform may lag where nobody says otherwise. The embedded engine lists what is in its own
#: memory. Snowflake names no delay for the functions of INFORMATION_SCHEMA; this one is generous, and unverified.
LISTING_LAG_SECONDS = {Platform.NARRATIVE: 0.0, Platform.SNOWFLAKE: 10.0}
#: Processes of a plane say that they live every ten seconds.
SILENT_AFTER_SECONDS = 30.0
