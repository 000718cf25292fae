"""One remote worker for several planes, by a settings file: each stands for itself, and limits change while it runs."""

import json
import signal
from pathlib import Path
from uuid import UUID

import httpx

from control_plane.errors import ExitCode
from control_plane.lifecycle import JobState
from tests.acceptance.remote import held, settled_by
from tests.acceptance.site import Site, unclaimed_port, until

#: No call to an engine ends before the test lets it, and no lease before the call.
PATIENT = "[worker]\nlease_seconds = 3600\ncall_timeout_seconds = 3000\n"


def section(name: str, token_file: Path) -> str:
    return f'[worker.planes.{name}]\ntoken_file = "{token_file}"\n'


def file_of(site: Site, text: str) -> dict[str, str]:
    """The variable that names a settings file with this text."""
    path = site.folder / "countermand.toml"
    path.write_text(text)
    return {"COUNTERMAND_CONFIG": str(path)}


def test_a_silent_engine_and_a_bad_token_cost_the_other_planes_of_a_worker_nothing(sqlite_site: Site) -> None:
    """A call to the silent engine lasts until the neighbour's cancellations are settled, and longer."""
    site = sqlite_site
    silent, quick = site.plane("silent"), site.plane("quick")
    hanging = site.remote_executor(
        silent, "hanging"
    )  # stopped in a transaction, one over SQLite would stop the others, too
    site.executor(quick)
    (unanswered,) = site.submit_running(silent)
    job_ids = site.submit_running(quick, 3)
    files = [site.token_file(site.plane_token(plane), f"{plane}.token") for plane in (silent, quick)]
    bad = site.token_file("ctm_of-nobody", "bad.token")
    planes = (section("silent", files[0]), section("bad", bad), section("quick", files[1]))
    worker = site.remote_worker(None, settings=file_of(site, PATIENT + "".join(planes)))
    worker.until_event("outpost_left_out")
    until(lambda: len(worker.events("worker_started")) == 2, what="that two planes are served")
    hanging.stall()
    site.request(unanswered)
    until(lambda: held(site) == {unanswered}, what="that its round has begun")

    for job_id in job_ids:
        site.request(job_id)

    assert {site.ended(job_id).state for job_id in job_ids} == {JobState.CANCELLED}
    assert held(site) == {unanswered}
    assert site.waiting(unanswered) is None  # the call that nobody answers has not even ended
    [left_out] = worker.events("outpost_left_out")
    assert left_out["outpost"] == "bad"
    assert "does not accept the token" in left_out["detail"]
    hanging.signal(signal.SIGCONT)
    assert site.ended(unanswered).state is JobState.CANCELLED


def test_limits_and_log_level_change_while_a_worker_runs(sqlite_site: Site) -> None:
    """What it holds it keeps, for its executor is stopped and answers nothing."""
    site, plane = sqlite_site, sqlite_site.plane()
    hanging = site.remote_executor(plane)
    job_ids = site.submit_running(plane, 3)
    hanging.stall()
    for job_id in job_ids:
        site.request(job_id)
    token = section("only", site.token_file(site.plane_token(plane)))
    settings = file_of(site, f"{PATIENT}max_in_flight = 1\n{token}")
    worker = site.remote_worker(None, settings=settings)
    until(lambda: held(site), what="that it holds one")
    assert len(held(site)) == 1

    file_of(site, f"{PATIENT}max_in_flight = 2\n{token}")
    worker.signal(signal.SIGHUP)
    worker.until_event("settings_reloaded")
    until(lambda: len(held(site)) == 2, what="that it holds two")
    file_of(site, f'log_level = "warning"\n{PATIENT}max_in_flight = 3\n{token}')
    worker.signal(signal.SIGHUP)
    until(lambda: len(held(site)) == 3, what="that it holds three")
    hanging.signal(signal.SIGCONT)

    assert {site.ended(job_id).state for job_id in job_ids} == {JobState.CANCELLED}
    assert settled_by([worker]) == []  # told at a level that is not logged any more
    [reloaded] = worker.events("settings_reloaded")
    assert reloaded["changed"] == ["worker.max_in_flight"]


def test_a_worker_tells_its_metrics_where_it_is_told_to(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    site.executor(plane)
    address = f"127.0.0.1:{unclaimed_port()}"
    site.remote_worker(plane, settings={"COUNTERMAND_WORKER__METRICS_LISTEN": address})
    (job_id,) = site.submit_running(plane)
    assert sample(address, "countermand_worker_waiting", plane) == "0.0"

    site.request(job_id)

    site.ended(job_id)
    until(lambda: sample(address, "countermand_worker_settled_total", plane) == "1.0", what="that it was counted")


def sample(address: str, name: str, plane: UUID) -> str | None:
    """The value of the plane's metric of that name."""
    lines = httpx.get(f"http://{address}/metrics", trust_env=False, timeout=30.0).raise_for_status().text.splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name}{{") and str(plane) in line]
    return found[0] if found else None


# --- looking at planes ---------------------------------------------------------------------------------------------


def test_planes_are_checked_over_https_and_told_by_the_names_of_their_sections(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane("local")
    site.executor(plane)
    token, bad = site.token_file(site.plane_token(plane)), site.token_file("ctm_of-nobody", "bad.token")
    variables = file_of(site, section("north", token) + section("bad", bad))

    checked = site.run_remote("planes", "check", "--control-plane", site.api_url, **variables)
    as_json = site.run_remote("planes", "check", "north", "--json", "--control-plane", site.api_url, **variables)

    north, other = checked.stdout.splitlines()
    assert north.startswith("north (local): ok: ")
    assert other.startswith("bad: not ok: ")
    assert checked.returncode == ExitCode.CHECK_FAILED
    [record] = json.loads(as_json.stdout)["records"]
    assert (record["section"], record["display_name"], as_json.returncode) == ("north", "local", ExitCode.OK)


def test_one_plane_is_checked_by_its_token_alone(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane("local")
    site.executor(plane)
    reach = ("--control-plane", site.api_url, "--token-file", str(site.token_file(site.plane_token(plane))))

    checked = site.run_remote("planes", "check", *reach)

    assert (checked.returncode, checked.stdout.startswith("local: ok: ")) == (ExitCode.OK, True)
