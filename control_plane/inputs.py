"""What jobs of each type are given, and what they result in: the reference's documented fields."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from control_plane.errors import BadInput
from control_plane.jobs import Handle, JobType, Moment

Sql = Annotated[str, Meta(min_length=1, max_length=1_000_000)]
DatasetId = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class MaterializeViewInput(Struct, frozen=True, forbid_unknown_fields=True):
    """``materialize-view``: the rows of *compiled_sql* become the dataset."""

    nql: Sql
    dataset_id: DatasetId
    compiled_sql: Sql | UnsetType = UNSET
    compiled_select: Sql | UnsetType = UNSET  #: an older spelling of compiled_sql
    stats_enabled: bool = True

    def __post_init__(self) -> None:
        if (self.compiled_sql is UNSET) == (self.compiled_select is UNSET):
            raise ValueError("exactly one of compiled_sql and its older spelling compiled_select is needed")

    @property
    def sql(self) -> str:
        """The compiled SQL, by either spelling."""
        return self.compiled_select if self.compiled_sql is UNSET else self.compiled_sql  # type: ignore[return-value]  # one is set: __post_init__


class NqlForecastInput(Struct, frozen=True, forbid_unknown_fields=True):
    """``nql-forecast``: how many rows would *compiled_sql* answer, at what cost."""

    nql: Sql
    compiled_sql: Sql

    @property
    def sql(self) -> str:
        """The compiled SQL."""
        return self.compiled_sql


class SampleInput(Struct, frozen=True, forbid_unknown_fields=True):
    """``datasets_sample``: *rows* of the dataset, chosen at random, for people to look at."""

    dataset_id: DatasetId
    rows: Annotated[int, Meta(ge=1, le=100_000)] = 1_000


class MaterializeViewResult(Struct, frozen=True, forbid_unknown_fields=True):
    """The reference's result of ``materialize-view``."""

    dataset_id: int
    snapshot_id: int
    recalculation_id: UUID


class ForecastResult(Struct, frozen=True, forbid_unknown_fields=True):
    """The reference's result of a forecast; *cost* in micro cents of a US dollar."""

    rows: Annotated[int, Meta(ge=0)]
    cost: Annotated[int, Meta(ge=0)]


class SampleResult(Struct, frozen=True, forbid_unknown_fields=True):
    """How many rows the published sample of the dataset has."""

    dataset_id: int
    rows: Annotated[int, Meta(ge=0)]


class ExternalResult(Struct, frozen=True, forbid_unknown_fields=True):
    """How a tracked run succeeded, by its engine's own word and time: it could not be stopped in time."""

    handle: Handle
    engine_status: Annotated[str, Meta(min_length=1)]
    engine_ended_at: Moment | None = None


INPUTS: dict[JobType, Any] = {
    JobType.MATERIALIZE_VIEW: MaterializeViewInput,
    JobType.NQL_FORECAST: NqlForecastInput,
    JobType.SAMPLE: SampleInput,
}
RESULTS: dict[JobType, Any] = {
    JobType.MATERIALIZE_VIEW: MaterializeViewResult,
    JobType.NQL_FORECAST: ForecastResult,
    JobType.FORECAST: ForecastResult,
    JobType.SAMPLE: SampleResult,
    JobType.EXTERNAL: ExternalResult,
}


def _checked(kind: str, model: Any, job_type: JobType, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{kind}: a JSON object is needed, not {type(value).__name__}", field=kind)
    if model is None:
        return value
    try:
        converted = msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(model))
        raise BadInput(f"{kind}: {error}; a {job_type.value} job has the fields {fields}", field=kind) from error
    document: dict[str, Any] = msgspec.to_builtins(converted)
    return document


def check_input(job_type: JobType, value: object) -> dict[str, Any]:
    """*value* as the input of a job of this type, with defaults filled in; BadInput names the field at fault.

    Types without a documented input take any JSON object.
    """
    return _checked("input", INPUTS.get(job_type), job_type, value)


def check_result(job_type: JobType, value: object) -> dict[str, Any]:
    """*value* as the result of a job of this type; BadInput names the field at fault."""
    return _checked("result", RESULTS.get(job_type), job_type, value)


def read_input(job_type: JobType, document: dict[str, Any]) -> Any:
    """The typed input that :func:`check_input` accepted when the job was submitted."""
    return msgspec.convert(document, INPUTS[job_type])
