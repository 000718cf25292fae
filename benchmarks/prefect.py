"""Prefect's own server, asked over HTTP to cancel flow runs: a peer of ``api_request``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.api_request import flood, flood_unit, free_port, load, wait_until_ready
from benchmarks.effort import Effort
from benchmarks.ground import Ground

_PREFECT = Path(sys.executable).with_name("prefect")
_RUNNING = {"type": "RUNNING", "name": "Running"}
_CANCELLING = {"state": {"type": "CANCELLING", "name": "Cancelling"}}  #: what ``prefect flow-run cancel`` sends
_WARM_UP = 50  #: requests before it is measured
_PATIENCE_SECONDS = 120.0


class Prefect:
    """``POST /flow_runs/{id}/set_state`` to ``Cancelling`` of running flow runs, over the sixteen connections and by
    the client of ``api_request``, as fast as they are answered.

    One server process on the same Postgres, as its documentation sets it up for production: asyncpg, the services
    (scheduler, event persister and others) apart from the API's process, which here means that none runs. The web
    pages and the telemetry are off as well. uvloop and httptools are there for its uvicorn, and it is warmed up.
    """

    name = "peer_prefect"

    def __init__(self, effort: Effort) -> None:
        self.units: Mapping[str, str] = {self.name: flood_unit()}
        self._runs = effort.prefect_runs

    def prepare(self, ground: Ground) -> None:
        """Its tables, and running flow runs, made through its API."""
        with ground.found(self.name, migrated=False) as connection, _serving(ground, self.name) as port:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api") as api:
                flow = api.post("/flows/", json={"name": "benchmark"}).raise_for_status().json()["id"]
            body = json.dumps({"flow_id": flow, "state": _RUNNING})
            load(ground, port, _no_token(ground), [f"POST /api/flow_runs/ {body}"] * (self._runs + _WARM_UP))
            connection.execute("ANALYZE")

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Requests a second."""
        with ground.lend(self.name) as database, ground.connect(database) as connection:
            body = json.dumps(_CANCELLING)
            runs = connection.execute("SELECT id FROM flow_run ORDER BY id").fetchall()
            lines = [f"POST /api/flow_runs/{run}/set_state {body}" for (run,) in runs]
            with _serving(ground, database) as port:
                token = _no_token(ground)
                load(ground, port, token, lines[:_WARM_UP])
                rate = flood(ground, port, token, lines[_WARM_UP:])
            states = connection.execute("SELECT state_type::text, count(*) FROM flow_run GROUP BY 1").fetchall()
        if states != [("CANCELLING", len(lines))]:
            raise RuntimeError(f"{len(lines)} flow runs were to be moved to Cancelling, but there are {states}")
        return {self.name: rate}


def _no_token(ground: Ground) -> Path:
    file = ground.file("no-token")
    file.write_text("none")
    return file


@contextmanager
def _serving(ground: Ground, database: str) -> Iterator[int]:
    """Prefect's server on the database: its port."""
    port, log = free_port(), ground.file("prefect.log")
    settings = {
        "PREFECT_HOME": str(ground.file("prefect")),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": ground.server.url(database).replace("+psycopg", "+asyncpg"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [str(_PREFECT), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-services", "--no-ui"]
    with log.open("wb") as said:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=said, stderr=said)
    try:
        wait_until_ready(process, port, log, "/api/health", patience_seconds=_PATIENCE_SECONDS)
        yield port
    finally:
        process.terminate()
        process.wait(_PATIENCE_SECONDS)
