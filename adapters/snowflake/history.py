"""Who is known to have run what: ``INFORMATION_SCHEMA.QUERY_HISTORY…``, read so that it can be told from a part of it.

The functions give the latest queries up to a limit that applies before any WHERE, leave out in silence what the
reader may not see, and forget after seven days (Snowflake's documentation). With END_TIME_RANGE_END they leave out what
still runs, so that is never given.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from adapters.snowflake.line import Line, literal, literals
from control_plane.planes import Owner

MOST = 10_000  #: what one reading can give
OURS = "countermand:"  #: what the tags of jobs' and of executors' own statements begin with
_COLUMNS = "QUERY_ID, QUERY_TAG, USER_NAME, WAREHOUSE_NAME, ROLE_NAME, SESSION_ID, END_TIME"


class Entry(NamedTuple):
    """One query of the history; all but *ended_at* never changes."""

    query_id: str
    tag: str
    owner: Owner
    session_id: int
    ended_at: datetime | None


class Reading(NamedTuple):
    """What one reading gave: the wanted *entries*; *seen* rows in all, of which *ours* carry a tag of Countermand's."""

    entries: tuple[Entry, ...] = ()
    seen: int = 0
    ours: int = 0

    @property
    def truncated(self) -> bool:
        """Whether there may have been more than it gives."""
        return self.seen >= MOST

    def tagged(self) -> Mapping[str, list[Entry]]:
        """The entries by their tags."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.tag, []).append(entry)
        return found


class History:
    """The history as one user is shown it; *prefix* is what the tags of the plane's jobs begin with."""

    def __init__(self, line: Line, *, prefix: str) -> None:
        self._line = line
        self._prefix = prefix

    async def of_user(self, user: str, *, tags: Collection[str] = (), query_ids: Collection[str] = ()) -> Reading:
        """What this user ran under these very tags, or under these ids."""
        return await self._read(f"QUERY_HISTORY_BY_USER(USER_NAME => {literal(user)}, ", _wanted(tags, query_ids))

    async def open_of_user(self, user: str) -> Reading:
        """What this user ran under the plane's tags and is not known to have ended."""
        mine = f"STARTSWITH(H.QUERY_TAG, {literal(self._prefix)}) AND H.END_TIME IS NULL"
        return await self._read(f"QUERY_HISTORY_BY_USER(USER_NAME => {literal(user)}, ", mine)

    async def of_anybody(self, query_ids: Collection[str]) -> Reading:
        """These queries, whoever ran them."""
        return await self._read("QUERY_HISTORY(", _wanted((), query_ids))

    async def _read(self, function: str, wanted: str) -> Reading:
        """One row at least, because how much was seen has to be known also where nothing of it is wanted."""
        ours = f"STARTSWITH(QUERY_TAG, {literal(OURS)})"
        rows = await self._line.ask(
            f"WITH H AS (SELECT {_COLUMNS} FROM TABLE(INFORMATION_SCHEMA.{function}RESULT_LIMIT => {MOST})))"  # noqa: S608  literals
            f" SELECT S.SEEN, S.OURS, {_of('H')}"
            f" FROM (SELECT COUNT(*) AS SEEN, COUNT_IF({ours}) AS OURS FROM H) AS S LEFT JOIN H ON {wanted}"
        )
        return _reading(rows)


def _wanted(tags: Collection[str], query_ids: Collection[str]) -> str:
    return f"(H.QUERY_TAG IN ({literals(sorted(tags))}) OR H.QUERY_ID IN ({literals(sorted(query_ids))}))"


def _of(table: str) -> str:
    return ", ".join(f"{table}.{column.strip()}" for column in _COLUMNS.split(","))


def _reading(rows: Sequence[tuple[object, ...]]) -> Reading:
    seen, ours = (int(str(number or 0)) for number in rows[0][:2])  # of no rows it counts NULL
    return Reading(tuple(_entries(rows)), seen, ours)


def _entries(rows: Iterable[tuple[object, ...]]) -> Iterable[Entry]:
    for _, _, query_id, tag, user, warehouse, role, session_id, ended_at in rows:
        if query_id is not None:
            owner = Owner(_text(user), _text(warehouse), _text(role))
            ended = ended_at if isinstance(ended_at, datetime) else None
            yield Entry(str(query_id), _text(tag) or "", owner, int(str(session_id)), ended)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
