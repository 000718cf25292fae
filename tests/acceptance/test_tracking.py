"""Work that somebody else started on a real engine, tracked and cancelled by real processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import httpx

from control_plane.errors import ExitCode
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import Closure, JobType, Outcome
from control_plane.lifecycle import JobState
from control_plane.planes import Platform, Tracking
from tests.acceptance.site import PERSON, ROOT, Site, until
from tests.narrative import ENDLESS
from workers.run_server import SOCKET

SHORT = "SELECT 1 AS x"


def query(site: Site, owner: str, sql: str = ENDLESS, folder: str = "data") -> str:
    """Start a query that is nobody's job, and answer its name."""
    transport = httpx.HTTPTransport(uds=str(site.folder / folder / SOCKET))
    with httpx.Client(transport=transport, base_url="http://executor", timeout=30.0) as client:
        told = client.post("/v1/query", json={"owner": owner, "sql": sql}).raise_for_status().json()
    return str(told["handle"]["run_id"])


def tracked(site: Site, plane: UUID, name: str) -> UUID:
    return site.intake.submit(NewJob(plane, JobType.EXTERNAL, {}, handle=name), PERSON).job_id


def running(site: Site) -> set[str]:
    """The names of the runs that the engine has."""
    return {run["handle"]["run_id"] for run in site._runs(site.folder / "data")}


def test_somebody_elses_query_is_stopped_by_its_name_and_its_neighbours_run_on(site: Site) -> None:
    plane = site.plane()
    site.intake.allow_tracking(plane, Tracking(users=["dbt"]))
    site.executor(plane)
    site.worker()
    name, neighbour, foreign = query(site, "dbt"), query(site, "dbt"), query(site, "finance")
    (job_id,) = site.submit_running(plane)
    allowed, forbidden = tracked(site, plane, name), tracked(site, plane, foreign)

    for tracked_id in (allowed, forbidden):
        site.request(tracked_id)

    receipt = site.ended(allowed).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.closure) == (Outcome.STOPPED, Closure.SINGLE_RUN)
    assert receipt.handle is not None
    assert receipt.handle.run_id == name
    until(lambda: site.waiting(forbidden) == "not_permitted", what="not_permitted")
    assert running(site) >= {neighbour, foreign}
    assert name not in running(site)
    assert site.intake.job(job_id).state is JobState.RUNNING


def test_one_command_tracks_requests_proves_and_prints_the_receipt(site: Site) -> None:
    plane = site.plane()
    site.executor(plane)
    site.worker()
    name = query(site, "dbt")
    track = ["jobs", "track", "--plane", "local", "--handle", name, "--wait-cancel", "--reason", "killed in Airflow"]

    refused = site.run(*track)
    allowed = site.run("planes", "allow-tracking", "local", "--user", "dbt", "--json")
    cancelled = site.run(*track)
    again = site.run(*track, "--json")

    assert refused.returncode == ExitCode.NOT_CANCELLABLE
    assert "allow-tracking" in refused.stderr
    assert json.loads(allowed.stdout)["tracking"]["users"] == ["dbt"]
    assert cancelled.returncode == ExitCode.OK, cancelled.stderr
    assert "closed by single_run: it was this one run and nothing else)" in cancelled.stdout
    assert name in cancelled.stdout
    assert name not in running(site)
    job = json.loads(again.stdout)
    assert (again.returncode, job["job_id"] in cancelled.stdout) == (ExitCode.OK, True)
    assert job["cancellation"]["reason"] == "killed in Airflow"


def test_a_query_that_had_succeeded_completes_its_tracked_job(site: Site) -> None:
    plane = site.plane()
    site.intake.allow_tracking(plane, Tracking(users=["dbt"]))
    site.executor(plane)
    name = query(site, "dbt", SHORT)
    until(lambda: name not in running(site), what="the query's end")
    job_id = tracked(site, plane, name)
    site.worker()

    asked = site.run("jobs", "track", "--plane", str(plane), "--handle", name, "--wait-cancel")
    site.request(job_id)

    assert asked.returncode == ExitCode.COMPLETED_FIRST, asked.stderr
    assert "succeeded" in asked.stdout
    job = site.ended(job_id)
    assert (job.state, job.result and job.result["engine_status"]) == (JobState.COMPLETED, "succeeded")


def test_nobody_knows_how_a_query_ended_whose_executor_was_killed(site: Site) -> None:
    """The next start knows that nothing of it runs any more, and not whether it had had its effect."""
    plane = site.plane()
    site.intake.allow_tracking(plane, Tracking(users=["dbt"]))
    executor = site.executor(plane)
    site.worker()
    job_id = tracked(site, plane, query(site, "dbt"))
    executor.kill()

    site.request(job_id)
    until(lambda: site.waiting(job_id) == "plane_silent", what="plane_silent")
    site.executor(plane)

    until(lambda: site.waiting(job_id) == "handle_unknown", what="handle_unknown")
    assert site.intake.job(job_id).state is JobState.PENDING_CANCELLATION


def test_the_readmes_operator_proves_that_its_query_stopped_or_raises(site: Site) -> None:
    """Airflow itself is none of ours: its base class is a stand-in with the two names that the example reads."""
    plane = site.plane("warehouse")
    site.intake.allow_tracking(plane, Tracking(users=["airflow"]))
    site.executor(plane)
    site.worker()
    killed, foreign = query(site, "airflow"), query(site, "finance")
    site.intake.create_plane(NewPlane("other", Platform.NARRATIVE))

    proven = kill_task(site, killed)
    refused = kill_task(site, foreign, plane="other")

    assert proven.returncode == 0, proven.stderr
    assert "'outcome': 'stopped'" in proven.stderr
    assert killed not in running(site)
    assert refused.returncode == 1
    assert f"AirflowException: {foreign} may still run" in refused.stderr
    assert foreign in running(site)


STANDING_IN_FOR_AIRFLOW = """
import logging, sys, types

for name in ("exceptions", "providers", "providers.snowflake", "providers.snowflake.operators",
             "providers.snowflake.operators.snowflake"):
    sys.modules[f"airflow.{name}"] = types.ModuleType(f"airflow.{name}")
sys.modules["airflow"] = types.ModuleType("airflow")

class Operator:
    log, task_id = logging.getLogger(), "load"

sys.modules["airflow.exceptions"].AirflowException = type("AirflowException", (Exception,), {})
sys.modules["airflow.providers.snowflake.operators.snowflake"].SnowflakeSqlApiOperator = Operator
logging.basicConfig(level=logging.INFO)
"""


def kill_task(site: Site, query_id: str, *, plane: str = "warehouse") -> subprocess.CompletedProcess[str]:
    """Run the README's on_kill, as Airflow would."""
    [example] = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    script = f"{STANDING_IN_FOR_AIRFLOW}{example.replace('warehouse', plane)}"
    script += f"\noperator = ProvenSnowflakeOperator()\noperator.query_ids = [{query_id!r}]\noperator.on_kill()\n"
    commands = Path(sys.executable).parent
    environment = site.environment(**site.access) | {"PATH": f"{commands}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=site.folder, env=environment, check=False, capture_output=True, text=True
    )
