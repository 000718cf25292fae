"""What jobs leave in Snowflake: a table for each, and the readers' views, which show the newest that was published.

``COUNTERMAND_OUTPUTS`` has the tables, and in ``PUBLICATIONS`` a row for each job that was ever published;
``COUNTERMAND_DATASETS`` and ``COUNTERMAND_SAMPLES`` have the views. They are made when they are first needed.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple, Self
from uuid import UUID

from adapters.snowflake.line import Line, LineError, literal
from control_plane.errors import BadInput
from control_plane.jobs import Purpose, Waiting, with_purpose
from control_plane.work import Publication

DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
TABLE = re.compile(r"(JOB|SAMPLE)_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
OUTPUTS = "COUNTERMAND_OUTPUTS"
READERS = {"JOB": "COUNTERMAND_DATASETS", "SAMPLE": "COUNTERMAND_SAMPLES"}
MISSING = 2003  #: or not authorized, which Snowflake does not tell apart


class Output(NamedTuple):
    """One job's table; its name says whose it is and which of the readers' schemas it is for."""

    kind: str
    job_id: UUID

    @classmethod
    def of_view(cls, job_id: UUID) -> Self:
        """Where a ``materialize-view`` job writes."""
        return cls("JOB", job_id)

    @classmethod
    def of_sample(cls, job_id: UUID) -> Self:
        """Where a ``datasets_sample`` job writes."""
        return cls("SAMPLE", job_id)

    @classmethod
    def of_table(cls, table: str) -> Self | None:
        """The output that a table of ``COUNTERMAND_OUTPUTS`` is, if it is any."""
        found = TABLE.fullmatch(table)
        return found and cls(found[1], UUID(found[2]))

    @property
    def table(self) -> str:
        """The table's name in its schema, unquoted."""
        return f"{self.kind}_{self.job_id}"

    def target(self, dataset_id: int) -> str:
        """The readers' view of it, within the database."""
        return f"{READERS[self.kind]}.DS_{dataset_id:d}"


class Shown(NamedTuple):
    """What a readers' view is to show: the publication with the highest number."""

    number: int
    job_id: UUID


class Outputs:
    """The outputs in one database, over a line with a warehouse.

    Several may publish at once. Once :meth:`publish` has answered True, the readers' view shows that number or a higher
    one, for good: whoever shows a number drops all lower ones that were ever recorded, and then shows it again, so that
    a publisher that stalled with a lower number in its hand finds nothing to show. Until then such a one may show an
    older number, or for an instant a table that is just being dropped; whoever repeats the publication mends that.
    """

    def __init__(self, line: Line, database: str) -> None:
        if not DATABASE.fullmatch(database):
            allowed = "letters, digits, _ and $, beginning with a letter or _"
            raise BadInput(f"database: {database!r} is no plain name (allowed: {allowed})", field="database")
        self._line = line
        self._database = database
        self._publications = f"{database}.{OUTPUTS}.PUBLICATIONS"
        self._preparing = asyncio.Lock()
        self._prepared = False

    def name(self, output: Output) -> str:
        """The table's full name, quoted."""
        return f'{self._database}.{OUTPUTS}."{output.table}"'

    def readers(self, dataset_id: int) -> str:
        """The full name of the view that readers of a dataset see."""
        return f"{self._database}.{READERS['JOB']}.DS_{dataset_id:d}"

    async def prepare(self) -> None:
        """See that the schemas and the table exist. Raises LineError, naming the privilege that is missing."""
        async with self._preparing:
            if not self._prepared:
                await self._create()
            self._prepared = True

    async def publish(self, tag: str, job_id: UUID, publication: Publication) -> bool:
        """Show the job's output to readers, unless a higher number is recorded; whether its publication stands.

        Repeatable: it takes up whatever another left half-way. False for a job without an output.
        """
        await self.prepare()
        tag = with_purpose(tag, Purpose.PUBLISH)
        target = await self._recorded(job_id) or await self._record(tag, job_id, publication)
        if target is None:
            return False
        await self._show_highest(tag, target)
        return True

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader was ever shown."""
        return list(await self._unpublished())

    async def discard(self, jobs: Mapping[UUID, str]) -> dict[UUID, tuple[str, ...]]:
        """Drop the unpublished outputs of these jobs, given with their tags; answers what was dropped."""
        found = await self._unpublished() if jobs else {}
        doomed = {job_id: self.name(found[job_id]) for job_id in jobs if job_id in found}
        for job_id, name in doomed.items():
            await self._drop(name, tag=with_purpose(jobs[job_id], Purpose.CLEANUP))
        return {job_id: (name,) for job_id, name in doomed.items()}

    # --- publishing

    async def _recorded(self, job_id: UUID) -> str | None:
        """For which view the job's publication is recorded already."""
        found = await self._line.ask(f"SELECT TARGET FROM {self._publications} WHERE JOB_ID = '{job_id}' LIMIT 1")  # noqa: S608  our own name and a UUID
        return str(found[0][0]) if found else None

    async def _record(self, tag: str, job_id: UUID, publication: Publication) -> str | None:
        """Twice is no harm: two rows that say the same."""
        output = (await self._unpublished()).get(job_id)
        if output is None:
            return None
        target = output.target(publication.dataset_id)
        row = f"{literal(target)}, {publication.number:d}, '{job_id}'"
        await self._line.ask(f"INSERT INTO {self._publications} (TARGET, NUMBER, JOB_ID) SELECT {row}", tag=tag)
        return target

    async def _show_highest(self, tag: str, target: str) -> None:
        """Until the highest number that is recorded is the one that was shown last."""
        shown = None
        while (highest := await self._highest(target)) != shown:
            if await self._show(tag, target, highest):
                shown = highest

    async def _show(self, tag: str, target: str, wanted: Shown) -> bool:
        """Whether it was shown; False when it was superseded and dropped meanwhile.

        Shown before the lower ones are dropped, for the readers' sake, and after it, because of whoever showed one of
        them in between: from then on nobody can.
        """
        try:
            await self._point(tag, target, wanted)
            await self._drop_below(tag, target, wanted.number)
            await self._point(tag, target, wanted)
        except LineError as error:
            if error.code == MISSING and await self._highest(target) != wanted:
                return False
            raise
        return True

    async def _highest(self, target: str) -> Shown:
        [(number, job_id)] = await self._line.ask(
            f"SELECT NUMBER, JOB_ID FROM {self._publications} WHERE TARGET = {literal(target)}"  # noqa: S608  our own names
            " ORDER BY NUMBER DESC LIMIT 1"
        )
        return Shown(int(number), UUID(job_id))

    async def _point(self, tag: str, target: str, wanted: Shown) -> None:
        """Readers keep what they were granted on the view."""
        kind = next(kind for kind, schema in READERS.items() if target.startswith(f"{schema}."))
        table = self.name(Output(kind, wanted.job_id))
        view = f"{self._database}.{target}"
        await self._line.ask(f"CREATE OR REPLACE VIEW {view} COPY GRANTS AS SELECT * FROM {table}", tag=tag)  # noqa: S608  our own names

    async def _drop_below(self, tag: str, target: str, number: int) -> None:
        """Drop every output that was recorded for the view with a lower number."""
        found = await self._line.ask(
            f"SELECT DISTINCT T.TABLE_NAME FROM {self._joined('JOIN')}"  # noqa: S608  names and numbers of our own
            f" WHERE T.TABLE_SCHEMA = '{OUTPUTS}' AND P.TARGET = {literal(target)} AND P.NUMBER < {number:d}"
        )
        for (table,) in found:
            if (output := Output.of_table(table)) is not None:
                await self._drop(self.name(output), tag=tag)

    # --- tables

    async def _unpublished(self) -> dict[UUID, Output]:
        await self.prepare()
        found = await self._line.ask(
            f"SELECT T.TABLE_NAME FROM {self._joined('LEFT JOIN')}"  # noqa: S608  our own names
            f" WHERE T.TABLE_SCHEMA = '{OUTPUTS}' AND P.JOB_ID IS NULL"
        )
        outputs = (Output.of_table(table) for (table,) in found)
        return {output.job_id: output for output in outputs if output is not None}

    def _joined(self, how: str) -> str:
        """The tables with their publications: what follows the first underscore of a table's name is its job."""
        tables = f"{self._database}.INFORMATION_SCHEMA.TABLES"
        return f"{tables} AS T {how} {self._publications} AS P ON P.JOB_ID = SPLIT_PART(T.TABLE_NAME, '_', 2)"

    async def _drop(self, name: str, *, tag: str) -> None:
        await self._line.ask(f"DROP TABLE IF EXISTS {name}", tag=tag)

    # --- what must exist

    async def _create(self) -> None:
        """Only what is missing: who may use it all need not have the privilege to make it."""
        if await self._exists():
            return
        try:
            for schema in (OUTPUTS, *READERS.values()):
                await self._line.ask(f"CREATE SCHEMA IF NOT EXISTS {self._database}.{schema}")
            columns = "TARGET VARCHAR NOT NULL, NUMBER NUMBER(19, 0) NOT NULL, JOB_ID VARCHAR NOT NULL"
            await self._line.ask(f"CREATE TABLE IF NOT EXISTS {self._publications} ({columns})")
        except LineError as error:
            if error.trouble.waiting is not Waiting.NOT_PERMITTED:
                raise
            needed = f"CREATE SCHEMA on the database {self._database}, or ownership of the schema {OUTPUTS} in it"
            raise LineError(Waiting.NOT_PERMITTED, f"{error.message} (needed: {needed})", error.code) from error

    async def _exists(self) -> bool:
        """The table is made last: where it is, all else is."""
        try:
            await self._line.ask(f"SELECT 1 FROM {self._publications} LIMIT 1")  # noqa: S608  our own name
        except LineError as error:
            if error.code == MISSING:
                return False
            raise
        return True
