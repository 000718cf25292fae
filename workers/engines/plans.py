"""What each type of job asks of DuckDB: one statement, and the documented result made of its answer."""

from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

from control_plane.inputs import MaterializeViewInput, NqlForecastInput, SampleInput, read_input
from control_plane.jobs import JobType
from control_plane.work import Claim
from workers.engines.dialect import translate
from workers.engines.results import forecast_result, sample_result, view_result
from workers.engines.warehouse import Output


class Answer(NamedTuple):
    """What the statement answered: the rows counted or written, and how long it took."""

    rows: int
    seconds: float


class Plan(NamedTuple):
    """One statement, the result that its answer makes, and the dataset and readers' view that its output is for."""

    sql: str
    conclude: Callable[[Answer], dict[str, Any]]
    dataset_id: int | None = None
    target: str | None = None


def plan(claim: Claim, microcents_per_second: float) -> Plan:
    """The plan of a claimed job. Raises BadInput, naming the field, when its SQL is not one plain query."""
    wanted = read_input(claim.type, claim.input)
    match wanted:
        case MaterializeViewInput():
            return _materialize(claim.job_id, wanted)
        case NqlForecastInput():
            return _forecast(wanted, microcents_per_second)
        case SampleInput():
            return _sample(claim.job_id, wanted)
    raise NotImplementedError(claim.type)


TYPES = frozenset({JobType.MATERIALIZE_VIEW, JobType.NQL_FORECAST, JobType.SAMPLE})


def _materialize(job_id: UUID, wanted: MaterializeViewInput) -> Plan:
    def conclude(_answer: Answer) -> dict[str, Any]:
        return view_result(wanted.dataset_id)

    output = Output.of_view(job_id)
    return _written(output, translate(wanted.sql), wanted.dataset_id, conclude)


def _forecast(wanted: NqlForecastInput, microcents_per_second: float) -> Plan:
    def conclude(answer: Answer) -> dict[str, Any]:
        return forecast_result(answer.rows, answer.seconds, microcents_per_second)

    return Plan(f"SELECT count(*) FROM ({translate(wanted.sql)})", conclude)  # noqa: S608  translated, and one query only


def _sample(job_id: UUID, wanted: SampleInput) -> Plan:
    def conclude(answer: Answer) -> dict[str, Any]:
        return sample_result(wanted.dataset_id, answer.rows)

    rows = f"SELECT * FROM narrative.datasets.ds_{wanted.dataset_id} USING SAMPLE reservoir({wanted.rows} ROWS)"  # noqa: S608  two integers
    return _written(Output.of_sample(job_id), rows, wanted.dataset_id, conclude)


def _written(output: Output, query: str, dataset_id: int, conclude: Callable[[Answer], dict[str, Any]]) -> Plan:
    return Plan(f"CREATE TABLE {output.name} AS {query}", conclude, dataset_id, output.target(dataset_id))
