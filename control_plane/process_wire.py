"""What travels between the API and planes' processes; both sides read the same nouns."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from control_plane.jobs import ExecutionCluster, Handle, JobType
from control_plane.work import (
    Assignment,
    Claim,
    Commit,
    Executor,
    Failure,
    Hold,
    Postponed,
    Postponement,
    Publication,
    Settled,
    Settlement,
)

MOST_ITEMS = 1_000  #: in one request
Name = Annotated[str, Meta(min_length=1, max_length=150)]
Text = Annotated[str, Meta(max_length=1_000)]
Lease = Annotated[float, Meta(gt=0, le=86_400, description="How long the lease holds without being extended.")]
LONGEST_WAIT_SECONDS = 55  #: less than what a request may take, and than what proxies usually bear
Wait = Annotated[float, Meta(ge=0, le=LONGEST_WAIT_SECONDS, description="How long to wait for work, in seconds.")]
AtMost = Meta(max_length=MOST_ITEMS)
ByJob = Meta(max_length=MOST_ITEMS, extra_json_schema={"propertyNames": {"format": "uuid"}})


class ClaimCancellations(Struct, frozen=True, forbid_unknown_fields=True):
    """How many cancellations a worker has room for; with a *lease* given before, what that claim had leased."""

    worker: Name
    limit: Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
    lease_seconds: Lease = 30.0
    wait_seconds: Wait = 0.0
    lease: Annotated[
        UUID | None,
        Meta(description="At random, and new for each claim: sent again with the same, a lost answer is answered."),
    ] = None


class Assignments(Struct, frozen=True):
    """Claimed cancellations, oldest first; each is held by its lease."""

    assignments: list[Assignment]


class Holds(Struct, frozen=True, forbid_unknown_fields=True):
    """Leases."""

    holds: Annotated[list[Hold], AtMost]
    lease_seconds: Lease = 30.0


class HeldLeases(Struct, frozen=True):
    """Those that are still held, with what is known of their closure."""

    holds: list[Hold]


class Settlements(Struct, frozen=True, forbid_unknown_fields=True):
    """Ends of cancellations: with a receipt ``cancelled``, without one ``completed``."""

    worker: Name
    settlements: Annotated[list[Settlement], AtMost]


class SettledCancellations(Struct, frozen=True):
    """Each settlement's fate, in the order given; what did not land was stale."""

    settled: list[Settled]


class Postponements(Struct, frozen=True, forbid_unknown_fields=True):
    """Cancellations given back for now, each with its reason."""

    postponements: Annotated[list[Postponement], AtMost]


class PostponedCancellations(Struct, frozen=True):
    """Those that were still held."""

    postponed: list[Postponed]


class Leftovers(Struct, frozen=True, forbid_unknown_fields=True):
    """What was removed, by job."""

    removed: Annotated[dict[UUID, list[str]], ByJob]


class Jobs(Struct, frozen=True):
    """Those of the jobs that the call was about, and that it took effect on."""

    job_ids: list[UUID]


class Registration(Struct, frozen=True, forbid_unknown_fields=True):
    """A start of an executor; the same *token* may register again, when the answer was lost."""

    executor: Executor
    token: UUID


class Registered(Struct, frozen=True):
    """The installation's name, which is part of every tag."""

    installation: str


class ClaimJobs(Struct, frozen=True, forbid_unknown_fields=True):
    """What an executor can run, and how many; with an *epoch* given before, what that claim had started."""

    executor: Executor
    types: list[JobType]
    limit: Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
    incarnation: str
    epoch: UUID | None = None
    wait_seconds: Wait = 0.0
    clusters: Annotated[
        dict[ExecutionCluster, Text],
        Meta(
            description="The clusters that its engine serves, each with the incarnation of what runs there, which "
            "counts in place of `incarnation`. Empty: it does not tell them apart."
        ),
    ] = {}


class Claims(Struct, frozen=True):
    """Started jobs. Their permits count from before the call was sent."""

    claims: list[Claim]


class Attend(Struct, frozen=True, forbid_unknown_fields=True):
    """Every job that the executor holds, by its epoch. The answer comes at once where something is to be closed."""

    held: Annotated[dict[UUID, UUID], ByJob]
    wait_seconds: Annotated[
        float, Meta(ge=0, le=LONGEST_WAIT_SECONDS, description="At most an eighth of the permit is waited.")
    ] = 0.0


class Handles(Struct, frozen=True, forbid_unknown_fields=True):
    """The engine's names of runs, and the epochs under which they run."""

    handles: Annotated[dict[UUID, Handle], ByJob]
    epochs: Annotated[dict[UUID, UUID], ByJob]


class Epochs(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs, by the epochs under which they were claimed."""

    epochs: Annotated[dict[UUID, UUID], ByJob]


class Commits(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs whose output is written."""

    executor: Executor
    commits: Annotated[list[Commit], AtMost]


class Committed(Struct, frozen=True):
    """Which jobs passed the commit point, with their publications; who is missing lost against a cancellation."""

    publications: dict[UUID, Publication | None]


class Published(Struct, frozen=True, forbid_unknown_fields=True):
    """Committed jobs whose publication stands."""

    executor: Executor
    job_ids: Annotated[list[UUID], AtMost]


class Failures(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs that their executor gives up, each with its cause."""

    executor: Executor
    failures: Annotated[list[Failure], AtMost]


class OfExecutor(Struct, frozen=True, forbid_unknown_fields=True):
    """An executor."""

    executor: Executor


class JobIds(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs."""

    job_ids: Annotated[list[UUID], AtMost]
