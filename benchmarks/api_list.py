"""How soon a page of jobs is answered where there are a million, of a hundred companies or of one."""

from collections.abc import Mapping

import psycopg

from benchmarks import population
from benchmarks.api_request import load, serving
from benchmarks.effort import Effort
from benchmarks.ground import Ground

FILTERS = {
    "all": "",
    "plane": f"data_plane_id={population.PLANE}",
    "dataset": "dataset_id=6402",
    "type": "type=materialize-view",
    "state": "state=cancelled",
    "created_asc": "order_by=created_at_asc",
    "updated": "order_by=updated_at_desc",
    "updated_asc": "order_by=updated_at_asc",
}


class ApiList:
    """The first page of ``GET /jobs`` for company 1, plainly and by each filter, one request after the other.

    *companies* share the jobs evenly, each company's are of a hundred datasets, and all match the type and the state.
    The page says how many match (``total_records``), which is counted each time. ``…_p99_at_speed`` is the worst
    filter's, without the requests that a slow spell of the machine touched: with one company that may be all of them.
    """

    def __init__(self, effort: Effort, companies: int) -> None:
        self.name = f"api_list_{companies}"
        self.units: Mapping[str, str] = {
            **{f"{self.name}_{name}_p99": "ms" for name in FILTERS},
            f"{self.name}_p99_at_speed": "ms",
        }
        self._companies = companies
        self._jobs = effort.listed_jobs
        self._requests = effort.list_requests if companies > 1 else effort.list_requests // 10  # each counts them all

    def prepare(self, ground: Ground) -> None:
        """Load ended jobs of all companies."""
        with ground.found(self.name) as connection:
            population.add_plane(connection)
            population.add_ended(connection, self._jobs)
            self._deal(connection)

    def _deal(self, connection: psycopg.Connection) -> None:
        """Every company has a plane and, in turn, its share of the jobs there."""
        companies = {"companies": self._companies, "plane": population.PLANE}
        with connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(_PLANES, companies)
            connection.execute(_SHARES, companies)
        connection.execute("VACUUM FULL jobs")

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """The 99th percentile of each, in milliseconds."""
        with serving(ground, self.name) as (port, token):  # nothing is changed: no round needs a copy
            loaded = {
                name: load(ground, port, token, [f"GET /jobs?{query}"] * self._requests, connections=1)
                for name, query in FILTERS.items()
            }
        figures = {f"{self.name}_{name}_p99": one.milliseconds(99) for name, one in loaded.items()}
        if self._companies > 1:
            figures[f"{self.name}_p99_at_speed"] = max(one.at_speed().milliseconds(99) for one in loaded.values())
        return figures


_PLANES = """
INSERT INTO data_planes (data_plane_id, company_id, display_name, platform, tags, permit_seconds, listing_lag_seconds,
                         stuck_after_seconds, created_at)
SELECT uuidv7(), company, 'of ' || company, platform, tags, permit_seconds, 0, 900, now()
FROM generate_series(2, %(companies)s) AS company, data_planes WHERE data_plane_id = %(plane)s
"""
_SHARES = """
UPDATE jobs
SET company_id = dealt.company, data_plane_id = data_planes.data_plane_id,
    input = jsonb_set(input, '{dataset_id}', to_jsonb(6400 + dealt.number / %(companies)s %% 100))
FROM (SELECT job_id, number, 1 + number %% %(companies)s AS company
      FROM (SELECT job_id, row_number() OVER (ORDER BY created_at) AS number FROM jobs) AS numbered) AS dealt
     JOIN data_planes ON data_planes.company_id = dealt.company
WHERE dealt.job_id = jobs.job_id
"""
