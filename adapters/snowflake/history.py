"""Who is known to have run what: ``INFORMATION_SCHEMA.QUERY_HISTORY…``, read so that it can be told from a part of it.

The functions give the latest queries up to a limit that applies before any WHERE, leave out in silence what the
reader may not see, and forget after seven days (Snowflake's documentation). With END_TIME_RANGE_END they leave out what
still runs, so that it is given only to see what ended before the latest (unverified: that what runs counts as latest).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from adapters.snowflake.line import Line, literal, literals, user_name
from control_plane.planes import Owner

MOST = 10_000  #: what one page can give
PAGES = 20  #: how far back a reading goes
OURS = "countermand:"  #: what the tags of jobs' and of executors' own statements begin with
_COLUMNS = "QUERY_ID, QUERY_TAG, USER_NAME, WAREHOUSE_NAME, ROLE_NAME, SESSION_ID, END_TIME"
#: What has not ended has no end here. That the history gives NULL for it is unverified; that no query ends before it
#: begins is certain, so that a moment long ago, such as 1970, is taken for none as well.
_READ = _COLUMNS.replace("END_TIME", "CASE WHEN END_TIME >= START_TIME THEN END_TIME END AS END_TIME")


class Entry(NamedTuple):
    """One query of the history; all but *ended_at* never changes."""

    query_id: str
    tag: str
    owner: Owner
    session_id: int
    ended_at: datetime | None


class Reading(NamedTuple):
    """What was read: the wanted *entries*; *ours* is how many rows seen are Countermand's, and on its warehouse.

    *truncated*: there may have been more than it gives.
    """

    entries: tuple[Entry, ...] = ()
    ours: int = 0
    truncated: bool = False

    def tagged(self) -> Mapping[str, list[Entry]]:
        """The entries by their tags."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.tag, []).append(entry)
        return found


class Page(NamedTuple):
    """One answer of a history function: *seen* rows in all, of which the one that ended first did so at *oldest*."""

    entries: tuple[Entry, ...]
    seen: int
    ours: int
    oldest: datetime | None


class History:
    """The history as one user is shown it; *prefix* is what the tags of the plane's jobs begin with.

    *warehouse*, where it is known, is the one that jobs run on. Who may monitor another one only is shown what ran
    there, and nothing of this one.
    """

    def __init__(self, line: Line, *, prefix: str, warehouse: str | None = None) -> None:
        self._line = line
        self._prefix = prefix
        ours = f"STARTSWITH(QUERY_TAG, {literal(OURS)})"
        self._ours = ours if warehouse is None else f"{ours} AND WAREHOUSE_NAME = {literal(warehouse.upper())}"

    async def of_user(
        self, user: str, *, tags: Collection[str] = (), query_ids: Collection[str] = (), since: datetime | None = None
    ) -> Reading:
        """What this user ran under these very tags, or under these ids; nothing that ended before *since* is missed."""
        enough = len(set(query_ids)) if not tags else None
        return await self._read(_by(user), _wanted(tags, query_ids), since, enough)

    async def open_of_user(self, user: str) -> Reading:
        """What this user ran under the plane's tags and is not known to have ended."""
        mine = f"STARTSWITH(H.QUERY_TAG, {literal(self._prefix)}) AND H.END_TIME IS NULL"
        page = await self._page(_by(user), mine)
        return Reading(page.entries, page.ours, truncated=page.seen >= MOST and page.oldest is None)

    async def of_anybody(self, query_ids: Collection[str]) -> Reading:
        """These queries, whoever ran them, as far back as a reading goes."""
        return await self._read("QUERY_HISTORY(", _wanted((), query_ids), None, len(set(query_ids)))

    async def _read(self, function: str, wanted: str, since: datetime | None, enough: int | None) -> Reading:
        """Page after page, until *enough* are found, or one is not full or reaches back to before *since*.

        The pages overlap: what ended in the very moment where one stops may be on the next.
        """
        entries: dict[str, Entry] = {}
        ours, before = 0, ""
        for _ in range(PAGES):
            page = await self._page(f"{function}{before}", wanted)
            ours += page.ours
            entries = {entry.query_id: entry for entry in page.entries} | entries
            reaches_back = since is not None and page.oldest is not None and page.oldest < since
            if page.seen < MOST or reaches_back or len(entries) == enough:
                return Reading(tuple(entries.values()), ours)
            if page.oldest is None:
                break
            until = page.oldest + timedelta(milliseconds=1)
            before = f"END_TIME_RANGE_END => TO_TIMESTAMP_LTZ({literal(until.isoformat())}), "
        return Reading(tuple(entries.values()), ours, truncated=True)

    async def _page(self, function: str, wanted: str) -> Page:
        """One row at least, because how much was seen has to be known also where nothing of it is wanted."""
        ours = f"COUNT_IF({self._ours}) AS OURS"
        rows = await self._line.ask(
            f"WITH H AS (SELECT {_READ} FROM TABLE(INFORMATION_SCHEMA.{function}RESULT_LIMIT => {MOST})))"  # noqa: S608  literals
            f" SELECT S.SEEN, S.OURS, S.OLDEST, {_of('H')}"
            f" FROM (SELECT COUNT(*) AS SEEN, {ours}, MIN(END_TIME) AS OLDEST FROM H) AS S LEFT JOIN H ON {wanted}"
        )
        seen, counted, oldest = rows[0][:3]
        entries = tuple(_entries(row[3:] for row in rows))
        return Page(entries, int(str(seen)), int(str(counted or 0)), oldest if isinstance(oldest, datetime) else None)


def _by(user: str) -> str:
    return f"QUERY_HISTORY_BY_USER(USER_NAME => {literal(user_name(user))}, "


def _wanted(tags: Collection[str], query_ids: Collection[str]) -> str:
    return f"(H.QUERY_TAG IN ({literals(sorted(tags))}) OR H.QUERY_ID IN ({literals(sorted(query_ids))}))"


def _of(table: str) -> str:
    return ", ".join(f"{table}.{column.strip()}" for column in _COLUMNS.split(","))


def _entries(rows: Iterable[tuple[object, ...]]) -> Iterator[Entry]:
    for query_id, tag, user, warehouse, role, session_id, ended_at in rows:
        if query_id is not None:
            owner = Owner(_text(user), _text(warehouse), _text(role))
            ended = ended_at if isinstance(ended_at, datetime) else None
            yield Entry(str(query_id), _text(tag) or "", owner, int(str(session_id)), ended)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
