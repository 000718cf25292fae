"""What each type of job asks of Spark: one query, as it was given, and the documented result made of its answer.

A shared cluster is given the query alone, as a relation, and told by the protocol where to write its rows. An
application has no caller to answer to: it is given a statement, and whatever it finds out it writes.
"""

from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Struct

from adapters.narrative.spark_warehouse import Kind, Output
from control_plane.errors import EngineUnavailable
from control_plane.inputs import MaterializeViewInput, NqlForecastInput, SampleInput, read_input
from control_plane.jobs import JobType
from control_plane.work import Claim
from workers.engines.dialect import untranslated
from workers.engines.results import forecast_result, sample_result, view_result

TYPES = frozenset({JobType.MATERIALIZE_VIEW, JobType.NQL_FORECAST, JobType.SAMPLE})
FORMAT = "parquet"
#: What the session or application of a job has to be set to, whatever its cluster has.
SETTINGS = {"spark.sql.variable.substitute": "false"}
#: The table that an application's statement is for is forgotten with it, and only what it wrote remains.
APPLICATION_SETTINGS = SETTINGS | {"spark.sql.catalogImplementation": "in-memory"}


def catalog_settings(warehouse: Path) -> dict[str, str]:
    """The same, of a plane: what the catalogue in ``spark_catalog.scala`` shows, where that one is ``narrative``."""
    return {"spark.sql.catalog.narrative.manifests": str(warehouse)}


class Rows(Enum):
    """Where the number of rows is to be read that the result wants."""

    UNWANTED = auto()
    ANSWERED = auto()  #: the query answers one row with one number, in the column ``rows``
    WRITTEN = auto()  #: in the output


class Plan(NamedTuple):
    """One query, the result that its rows and seconds make, and the output and dataset that it writes for."""

    job_id: UUID
    query: str
    conclude: Callable[[int, float], dict[str, Any]]
    rows: Rows = Rows.UNWANTED
    dataset_id: int | None = None
    output: Output | None = None  #: where its rows are written, as :data:`FORMAT`; None where they are the answer

    @property
    def written(self) -> Output:
        """Where an application writes, which has nobody to answer to."""
        return self.output or Output(Kind.ANSWER, self.job_id)


class Answer(Struct, frozen=True):
    """The row that an application writes where its query has an answer."""

    rows: int


def plan(claim: Claim, microcents_per_second: float) -> Plan:
    """The plan of a claimed job. Raises BadInput, naming the field, when its SQL is not one plain query."""
    wanted = read_input(claim.type, claim.input)
    match wanted:
        case MaterializeViewInput():
            return _materialize(claim.job_id, wanted)
        case NqlForecastInput():
            return _forecast(claim.job_id, wanted, microcents_per_second)
        case SampleInput():
            return _sample(claim.job_id, wanted)
    raise NotImplementedError(claim.type)


def statement(planned: Plan, place: str) -> str:
    """The one statement of an application that writes the plan's rows to *place*, where nothing may be yet.

    Interrupted, it leaves no table, and at most files that no ``_SUCCESS`` is beside.
    """
    kind = FORMAT if planned.output is not None else "json"
    name = f"spark_catalog.default.{planned.written.name.replace('-', '_').lower()}"
    return f"CREATE TABLE {name} USING {kind} LOCATION '{place}' AS\n{planned.query}"


def read_answer(written: bytes | None) -> int:
    """The number in the row that an application wrote. Raises EngineUnavailable where there is none."""
    try:
        return msgspec.json.decode(written or b"", type=Answer).rows
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"warehouse: the answer of the job's query cannot be read: {error}") from error


def count_rows(folder: Path) -> int:
    """How many rows the Parquet files of a whole output have, by their footers. Blocks."""
    from pyarrow import ArrowException, parquet

    try:
        return sum(parquet.read_metadata(file).num_rows for file in folder.glob("part-*.parquet"))
    except (OSError, ArrowException) as error:
        raise EngineUnavailable(f"warehouse: the rows in {folder} cannot be counted: {error}") from error


def _materialize(job_id: UUID, wanted: MaterializeViewInput) -> Plan:
    def conclude(_rows: int, _seconds: float) -> dict[str, Any]:
        return view_result(wanted.dataset_id)

    output = Output(Kind.VIEW, job_id)
    return Plan(job_id, untranslated(wanted.sql), conclude, dataset_id=wanted.dataset_id, output=output)


def _forecast(job_id: UUID, wanted: NqlForecastInput, microcents_per_second: float) -> Plan:
    def conclude(rows: int, seconds: float) -> dict[str, Any]:
        return forecast_result(rows, seconds, microcents_per_second)

    counted = f"SELECT count(*) AS rows FROM (\n{untranslated(wanted.sql)}\n)"  # noqa: S608  checked, and one query only
    return Plan(job_id, counted, conclude, Rows.ANSWERED)


def _sample(job_id: UUID, wanted: SampleInput) -> Plan:
    """TABLESAMPLE would take the first rows, not any."""

    def conclude(rows: int, _seconds: float) -> dict[str, Any]:
        return sample_result(wanted.dataset_id, rows)

    query = f"SELECT * FROM narrative.datasets.ds_{wanted.dataset_id:d} ORDER BY rand() LIMIT {wanted.rows:d}"  # noqa: S608  two integers
    output = Output(Kind.SAMPLE, job_id)
    return Plan(job_id, query, conclude, Rows.WRITTEN, dataset_id=wanted.dataset_id, output=output)
