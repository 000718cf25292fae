"""What each type of job asks of Snowflake: one statement, and the documented result made of its rows and seconds."""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NamedTuple

from adapters.snowflake.outputs import Output, Outputs
from control_plane.inputs import MaterializeViewInput, NqlForecastInput, SampleInput, read_input
from control_plane.jobs import JobType
from control_plane.work import Claim
from workers.engines.dialect import plain
from workers.engines.results import forecast_result, sample_result, view_result

TYPES = frozenset({JobType.MATERIALIZE_VIEW, JobType.NQL_FORECAST, JobType.SAMPLE})


class Rows(Enum):
    """Where the number of rows is to be read that the result wants."""

    UNWANTED = auto()
    ANSWERED = auto()  #: by the statement itself
    WRITTEN = auto()  #: to the output


class Plan(NamedTuple):
    """One statement, the result that its rows and seconds make, and the output and dataset that it writes for."""

    sql: str
    conclude: Callable[[int, float], dict[str, Any]]
    rows: Rows = Rows.UNWANTED
    dataset_id: int | None = None
    output: str | None = None  #: the full name of the table that it writes


def plan(claim: Claim, outputs: Outputs, microcents_per_second: float) -> Plan:
    """The plan of a claimed job. Raises BadInput, naming the field, when its SQL is not one plain query."""
    wanted = read_input(claim.type, claim.input)
    match wanted:
        case MaterializeViewInput():
            output = outputs.name(Output.of_view(claim.job_id))
            return _written(output, plain(wanted.sql), wanted.dataset_id, lambda *_: view_result(wanted.dataset_id))
        case NqlForecastInput():
            return _forecast(wanted, microcents_per_second)
        case SampleInput():
            return _sample(outputs.name(Output.of_sample(claim.job_id)), outputs, wanted)
    raise NotImplementedError(claim.type)


def _forecast(wanted: NqlForecastInput, microcents_per_second: float) -> Plan:
    def conclude(rows: int, seconds: float) -> dict[str, Any]:
        return forecast_result(rows, seconds, microcents_per_second)

    return Plan(f"SELECT COUNT(*) FROM (\n{plain(wanted.sql)}\n)", conclude, Rows.ANSWERED)  # noqa: S608  one query only


def _sample(output: str, outputs: Outputs, wanted: SampleInput) -> Plan:
    query = f"SELECT * FROM {outputs.readers(wanted.dataset_id)} SAMPLE ({wanted.rows:d} ROWS)"  # noqa: S608  two integers
    planned = _written(output, query, wanted.dataset_id, lambda rows, _: sample_result(wanted.dataset_id, rows))
    return planned._replace(rows=Rows.WRITTEN)


def _written(output: str, query: str, dataset_id: int, conclude: Callable[[int, float], dict[str, Any]]) -> Plan:
    return Plan(f"CREATE TABLE {output} AS\n{query}", conclude, dataset_id=dataset_id, output=output)
