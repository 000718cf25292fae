"""The reference page's own ``materialize-view`` example, and the data that it reads.

The data exist only while they are read: ``ds_6402`` has so many rows that the example's SQL runs for minutes, in 200 MB
and without spilling; ``ds_6403`` is the same, and small.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from workers.engines.warehouse import Resources, Warehouse

#: The reference, "Request cancellation of a job": a materialize-view job's input, with its NQL and its compiled SQL.
PAGE = "materialize_view.json"

#: About rows / rarity of them pass the filter and are kept; all have to be generated. Two ranges keep two threads busy.
_DATASET = """
CREATE OR REPLACE VIEW narrative.datasets.{name} AS
SELECT {{'value': 'maid-' || (h % 8)::VARCHAR}} AS mobile_id_unique_identifier,
       {{'day': 1 + (h // 7 % 28)::INTEGER, 'hour': (h // 11 % 24)::INTEGER}} AS timestamp_object,
       {{'latitude': 40.0 + (h // 13 % 2)::DOUBLE, 'longitude': -74.0 - (h // 17 % 2)::DOUBLE}} AS geographic_location,
       TIMESTAMP '2024-01-01 00:00:00' + to_minutes((h // 19 % 500000)::BIGINT) AS event_timestamp
FROM (SELECT hash(i) // {rarity} AS h
      FROM (SELECT a AS i FROM range(0, {half}) AS low(a) UNION ALL SELECT b FROM range({half}, {rows}) AS high(b))
      WHERE hash(i) % {rarity} = 0)
"""


def long_view() -> dict[str, Any]:
    """The page's job, as it stands there."""
    page: dict[str, Any] = msgspec.json.decode(files(__package__).joinpath(PAGE).read_bytes())
    return page


def short_view() -> dict[str, Any]:
    """The same over the small dataset: done in a moment."""
    page = long_view()
    return page | {"compiled_sql": page["compiled_sql"].replace("ds_6402", "ds_6403")}


def load(folder: Path) -> None:
    """Put both datasets into an executor's folder, before it is started."""
    folder.mkdir(mode=0o700)
    warehouse = Warehouse.open(folder, Resources(threads=1))
    with warehouse.session() as session:
        session.execute(_dataset("ds_6402", rows=100_000_000_000, rarity=10_000_000))
        session.execute(_dataset("ds_6403", rows=20_000_000, rarity=2_000))
    warehouse.close()


def _dataset(name: str, *, rows: int, rarity: int) -> str:
    return _DATASET.format(name=name, rows=rows, half=rows // 2, rarity=rarity)


def published_rows(folder: Path) -> int | None:
    """How many rows readers find in the view that the page's job makes; None where nobody published it.

    The executor must have ended: the folder's database belongs to one process at a time.
    """
    warehouse = Warehouse.open(folder, Resources(threads=1))
    with warehouse.session() as session:
        views = session.execute("SELECT view_name FROM duckdb_views() WHERE schema_name = 'datasets'").fetchall()
        counted = None
        if ("ds_6404",) in views:
            counted = session.execute("SELECT count(*) FROM narrative.datasets.ds_6404").fetchone()
    warehouse.close()
    return counted[0] if counted else None
