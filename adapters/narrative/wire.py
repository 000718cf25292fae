"""What travels between the embedded executor's run server and its adapter: msgspec structs as JSON."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from adapters.base import Run, StopAnswer
from control_plane.jobs import Handle
from control_plane.work import Publication

ENGINE = "duckdb"
MOST = 10_000  #: works in one request
MOST_BYTES = 8 * 2**20  #: of one request

Tag = Annotated[str, Meta(min_length=1, max_length=500)]


def run_handle(executor_id: str, incarnation: str, job_id: UUID) -> Handle:
    """The name of a job's one run: known before it starts, and never given twice."""
    return Handle(ENGINE, incarnation, f"{executor_id}/{incarnation}/{job_id}")


class Identity(Struct, frozen=True):
    """Who answers: part of every answer, so that nobody is taken for another."""

    executor_id: str
    incarnation: int


class NamedJob(Struct, frozen=True, forbid_unknown_fields=True):
    """A job as the engine knows it."""

    job_id: UUID
    tag: Tag


class Jobs(Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for runs, for closing, or for discarding, by tag."""

    jobs: Annotated[list[NamedJob], Meta(max_length=MOST)]


class Handles(Struct, frozen=True, forbid_unknown_fields=True):
    """Asks to stop or to observe, by handle."""

    handles: Annotated[list[Handle], Meta(max_length=MOST)]


class Query(Struct, frozen=True, forbid_unknown_fields=True):
    """Asks to run a query that is nobody's job: somebody else's work beside ours, under its owner's name."""

    owner: Annotated[str, Meta(min_length=1, max_length=200)]
    sql: Annotated[str, Meta(min_length=1, max_length=1_000_000)]


class Order(Struct, frozen=True, forbid_unknown_fields=True):
    """A committed job and its place in the order of its dataset."""

    job_id: UUID
    publication: Publication


class Orders(Struct, frozen=True, forbid_unknown_fields=True):
    """Asks to publish."""

    orders: Annotated[list[Order], Meta(max_length=MOST)]


class Answer(Struct, frozen=True):
    """The base of every answer."""

    identity: Identity


class Runs(Answer, frozen=True):
    """Runs, as the engine sees them."""

    runs: list[Run]


class Started(Answer, frozen=True):
    """The handle of a run that began."""

    handle: Handle


class StoppedRun(Struct, frozen=True):
    """What the engine answered to one stop."""

    handle: Handle
    answer: StopAnswer


class Stops(Answer, frozen=True):
    """What the engine answered to each stop."""

    stops: list[StoppedRun]


class Done(Answer, frozen=True):
    """The jobs for which it was done."""

    job_ids: frozenset[UUID]


class Removed(Answer, frozen=True):
    """What was removed, by job; jobs without anything are left out."""

    removed: dict[UUID, list[str]]


class Problem(Struct, frozen=True):
    """Why a request was not answered, in one sentence."""

    detail: str
