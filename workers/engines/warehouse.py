"""The executor's data in DuckDB: what readers see, what jobs wrote, and which job's output each reader's view shows.

``narrative.datasets`` and ``narrative.samples`` hold the readers' views, ``narrative.outputs`` a table per job,
``narrative.bookkeeping.publications`` a row for each job that was ever published. Everything here blocks.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self
from uuid import UUID

import duckdb
from duckdb import DuckDBPyConnection
from msgspec import Struct

from control_plane.errors import BadInput, Refused
from control_plane.work import Publication

DATABASE = "data.duckdb"
SPILL = "spill"
LAYOUT = """
CREATE SCHEMA IF NOT EXISTS narrative.datasets;
CREATE SCHEMA IF NOT EXISTS narrative.samples;
CREATE SCHEMA IF NOT EXISTS narrative.outputs;
CREATE SCHEMA IF NOT EXISTS narrative.bookkeeping;
CREATE TABLE IF NOT EXISTS narrative.bookkeeping.publications (target VARCHAR, number BIGINT, job_id UUID);
"""


class Resources(Struct, frozen=True):
    """What DuckDB may use; None leaves it to DuckDB (most of the memory, every core)."""

    memory_limit: str | None = None
    threads: int | None = None


class Output(NamedTuple):
    """One job's table; its name says whose it is and which of the readers' schemas it is for."""

    job_id: UUID
    schema: str

    @classmethod
    def of_view(cls, job_id: UUID) -> Self:
        """Where a ``materialize-view`` job writes."""
        return cls(job_id, "datasets")

    @classmethod
    def of_sample(cls, job_id: UUID) -> Self:
        """Where a ``datasets_sample`` job writes."""
        return cls(job_id, "samples")

    @classmethod
    def of_table(cls, table: str) -> Self:
        """The output that a table of ``narrative.outputs`` is."""
        prefix, _, job_id = table.partition("_")
        return cls(UUID(job_id), "datasets" if prefix == "job" else "samples")

    @property
    def name(self) -> str:
        """The table's full name, quoted."""
        prefix = "job" if self.schema == "datasets" else "sample"
        return f'narrative.outputs."{prefix}_{self.job_id}"'

    def target(self, dataset_id: int) -> str:
        """The readers' view of it."""
        return f"narrative.{self.schema}.ds_{dataset_id}"


class Warehouse:
    """One folder's database, open in this process alone. Its own methods are to be called from one thread at a time."""

    def __init__(self, database: DuckDBPyConnection) -> None:
        self._database = database
        self._books = database.cursor()

    @classmethod
    def open(cls, folder: Path, resources: Resources) -> Self:
        """Open the folder's database, made if need be, with no way out to files or networks.

        Raises Refused when another process has it open or it cannot be read, BadInput when a resource is malformed.
        """
        shutil.rmtree(folder / SPILL, ignore_errors=True)  # what a killed process had spilled
        database = _connect(folder, resources)
        try:
            _attach(database, folder)
        except duckdb.Error as error:
            database.close()
            message = f"data_folder: {folder / DATABASE} cannot be opened: {str(error).splitlines()[0]}"
            raise Refused(message, field="data_folder") from error
        return cls(database)

    def close(self) -> None:
        """Let go of the database; whatever runs in it is over."""
        self._books.close()
        self._database.close()

    def session(self) -> DuckDBPyConnection:
        """A session of its own, for one job."""
        return self._database.cursor()

    def publish(self, job_id: UUID, publication: Publication) -> bool:
        """Show the job's output to readers, unless a higher number is shown already; whether its publication stands."""
        with self._transaction():
            if self._is_recorded(job_id):
                return True
            output = self._outputs().get(job_id)
            if output is None:
                return False
            self._put_in_order(output, publication)
            return True

    def unpublished(self) -> list[UUID]:
        """The jobs whose outputs no reader was ever shown."""
        return [job_id for job_id in self._outputs() if not self._is_recorded(job_id)]

    def discard(self, job_ids: Sequence[UUID]) -> dict[UUID, tuple[str, ...]]:
        """Drop the unpublished outputs of these jobs; answers what was dropped."""
        with self._transaction():
            outputs = self._outputs()
            doomed = [outputs[job_id] for job_id in job_ids if job_id in outputs and not self._is_recorded(job_id)]
            for output in doomed:
                self._drop(output)
        return {output.job_id: (output.name,) for output in doomed}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._books.begin()
        try:
            yield
        except BaseException:
            self._books.rollback()
            raise
        self._books.commit()

    def _outputs(self) -> dict[UUID, Output]:
        found = self._books.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'narrative' AND schema_name = 'outputs'"
        )
        outputs = (Output.of_table(table) for (table,) in found.fetchall())
        return {output.job_id: output for output in outputs}

    def _is_recorded(self, job_id: UUID) -> bool:
        found = self._books.execute("SELECT 1 FROM narrative.bookkeeping.publications WHERE job_id = ?", [job_id])
        return found.fetchone() is not None

    def _put_in_order(self, output: Output, publication: Publication) -> None:
        target = output.target(publication.dataset_id)
        shown = self._shown(target)
        self._books.execute(
            "INSERT INTO narrative.bookkeeping.publications VALUES (?, ?, ?)",
            [target, publication.number, output.job_id],
        )
        if shown is not None and shown[0] > publication.number:
            self._drop(output)
            return
        self._books.execute(f"CREATE OR REPLACE VIEW {target} AS SELECT * FROM {output.name}")  # noqa: S608  our own names
        if shown is not None:
            self._drop(Output(shown[1], output.schema))

    def _shown(self, target: str) -> tuple[int, UUID] | None:
        found = self._books.execute(
            "SELECT number, job_id FROM narrative.bookkeeping.publications"
            " WHERE target = ? ORDER BY number DESC LIMIT 1",
            [target],
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def _drop(self, output: Output) -> None:
        self._books.execute(f"DROP TABLE IF EXISTS {output.name}")


def refuse_table(session: DuckDBPyConnection, target: str) -> None:
    """Raise BadInput where the readers' name belongs to a table: no publication may replace what somebody loaded."""
    *_, schema, name = target.split(".")
    found = session.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = 'narrative' AND schema_name = ? AND table_name = ?",
        [schema, name],
    )
    if found.fetchone() is not None:
        raise BadInput(f"dataset_id: {target} is a table, which a job may not replace", field="dataset_id")


def _connect(folder: Path, resources: Resources) -> DuckDBPyConnection:
    options: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(folder / SPILL),
        "python_enable_replacements": False,  # a table's name would find this process's own variables
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
    }
    if resources.memory_limit is not None:
        options["memory_limit"] = resources.memory_limit
    if resources.threads is not None:
        options["threads"] = resources.threads
    try:
        return duckdb.connect(":memory:", config=options)
    except duckdb.Error as error:
        message = f"memory_limit, threads: {str(error).splitlines()[0]} (allowed: a size such as 1GB; a whole number)"
        raise BadInput(message, field="memory_limit") from error


def _attach(database: DuckDBPyConnection, folder: Path) -> None:
    """External access ends before the first job: what a job's SQL may not reach, it cannot reach."""
    path = str(folder / DATABASE).replace("'", "''")
    database.execute(f"ATTACH '{path}' AS narrative")
    database.execute(LAYOUT)
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
