"""An installation as ``deploy/`` makes it: enrolled by its script, and run by its Compose file's commands."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from control_plane.lifecycle import JobState
from control_plane.tokens import Permission, Token, Tokens
from tests.acceptance.site import Site, Started, site_of
from tests.deployed import DEPLOY, mounts, services, stages

SCRIPT = DEPLOY / "enrol.sh"
#: Our command, as it is on the path of an installation.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
SERVICES = services()


def enrol(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = site.environment(PATH=PATH, COUNTERMAND_URL=site.api_url)
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), *arguments],
        cwd=site.folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )


def bound_tokens(site: Site) -> list[Token]:
    return [token for token in Tokens(site.store).known() if token.data_plane_id is not None]


# --- enrolling


def test_enrolling_makes_the_plane_and_a_token_for_each_process_that_may_do_no_more_than_it_has_to(
    sqlite_site: Site,
) -> None:
    enrolled = enrol(sqlite_site, "local", "platform_aws", "tokens")

    assert enrolled.returncode == 0, enrolled.stderr
    [plane] = sqlite_site.intake.planes()
    files = [sqlite_site.folder / "tokens" / process / "token" for process in ("worker", "executor")]
    callers = Tokens(sqlite_site.store).authenticate([file.read_text().strip() for file in files])
    assert [(caller.name, caller.data_plane_id, caller.permissions) for caller in callers] == [  # type: ignore[union-attr]
        (f"local-{process}", plane.data_plane_id, {Permission.JOBS_WRITE, Permission.DATA_PLANES_READ})
        for process in ("worker", "executor")
    ]
    assert [oct(file.stat().st_mode)[-3:] for file in files] == ["600", "600"]


def test_enrolling_again_leaves_everything_as_it_is_but_a_file_that_is_gone(sqlite_site: Site) -> None:
    enrol(sqlite_site, "local", "platform_aws", "tokens")
    kept, lost = (sqlite_site.folder / "tokens" / process / "token" for process in ("worker", "executor"))
    before = kept.read_text()
    lost.unlink()

    again = enrol(sqlite_site, "local", "platform_aws", "tokens")

    assert again.returncode == 0, again.stderr
    assert len(sqlite_site.intake.planes()) == 1
    assert kept.read_text() == before
    assert lost.read_text().startswith("ctm_")
    assert sorted(token.name for token in bound_tokens(sqlite_site)) == [
        "local-executor",
        "local-executor",
        "local-worker",
    ]


def test_enrolling_leaves_no_token_behind_that_may_make_planes_also_when_it_fails(sqlite_site: Site) -> None:
    enrol(sqlite_site, "local", "platform_aws", "tokens")
    failed = enrol(sqlite_site, "other", "platform_of_nobody", "tokens")

    assert failed.returncode == 2
    assert "platform_aws" in failed.stderr
    able = [t for t in Tokens(sqlite_site.store).known() if Permission.DATA_PLANES_WRITE in t.permissions]
    assert [token.name for token in able] == ["enrol", "enrol"]
    assert all(token.revoked_at for token in able)


def test_enrolling_takes_a_token_apart_by_the_id_that_it_is_revoked_by(sqlite_site: Site) -> None:
    """So says the page about rotating a token: the id is its second part."""
    enrol(sqlite_site, "local", "platform_aws", "tokens", "worker")
    text = (sqlite_site.folder / "tokens" / "worker" / "token").read_text()

    revoked = sqlite_site.run("tokens", "revoke", text.split("_")[1], "--json")

    assert revoked.returncode == 0, revoked.stderr
    [token] = bound_tokens(sqlite_site)
    assert json.loads(revoked.stdout)["token_id"] == str(token.token_id)


# --- the control plane's image


def test_the_images_health_check_tells_a_control_plane_that_serves_from_one_that_does_not(sqlite_site: Site) -> None:
    [check] = stages()["control-plane"].all("HEALTHCHECK")
    program = json.loads(check.partition("CMD ")[2])[2].replace("8080", sqlite_site.api_url.rpartition(":")[2])

    serving = subprocess.run([sys.executable, "-c", program], check=False)
    sqlite_site.server.terminate()
    gone = subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.DEVNULL)

    assert (serving.returncode, gone.returncode) == (0, 1)


# --- the Compose file


class Played:
    """The services of the Compose file as processes on this machine: their commands, settings and volumes."""

    def __init__(self, site: Site, opened: ExitStack) -> None:
        self._site = site
        self._opened = opened
        self._control_plane = "http://control-plane:8080"

    def run(self, name: str) -> None:
        """A service that ends."""
        arguments, environment = self._command(name), self._environment(name)
        ran = subprocess.run(arguments, env=environment, check=False, capture_output=True, text=True, timeout=100)
        assert ran.returncode == 0, ran.stderr

    def start(self, name: str, event: str) -> Started:
        """A service that goes on, once it has logged the event."""
        environment = self._environment(name)
        started = Started(name, self._command(name), folder=self._site.folder, environment=environment)
        self._opened.callback(started.kill)
        started.until_event(event)
        return started

    def serve(self) -> None:
        """The control plane, on a free port."""
        [told] = self.start("control-plane", "server_started").events("server_started")
        self._control_plane = f"http://127.0.0.1:{told['port']}"

    def _command(self, name: str) -> list[str]:
        entrypoint = SERVICES[name].get("entrypoint", ["countermand"])
        command = [str(SCRIPT) if word == "countermand-enrol" else word for word in entrypoint] + SERVICES[name][
            "command"
        ]
        return [self._here(name, word) for word in command]

    def _environment(self, name: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COUNTERMAND_", "PG"))}
        given: Mapping[str, Any] = SERVICES[name]["environment"]
        own = {variable: self._here(name, value) for variable, value in given.items() if not variable.startswith("PG")}
        if "COUNTERMAND_DATABASE_URL" in own:
            own["COUNTERMAND_DATABASE_URL"] = self._site.url
        return {**kept, "PATH": PATH, "COUNTERMAND_LOG_FORMAT": "json", "COUNTERMAND_SERVER__PORT": "0", **own}

    def _here(self, name: str, text: str) -> str:
        """What stands for it on this machine: the volumes' folders, the addresses."""
        if text == SERVICES["enrol"]["command"][2] and name == "enrol":
            return str(self._site.folder / "tokens")
        for path, (volume, _) in mounts(SERVICES[name]).items():
            folder = "tokens/" + volume.removesuffix("-token") if volume.endswith("-token") else ""
            text = text.replace(path, str(self._site.folder / folder))
        return text.replace("http://control-plane:8080", self._control_plane)


@pytest.fixture
def played(postgres_url: str) -> Iterator[tuple[Site, Played]]:
    with site_of(postgres_url) as site, ExitStack() as opened:
        yield site, Played(site, opened)


def test_the_services_of_the_compose_file_in_their_order_cancel_a_job(played: tuple[Site, Played]) -> None:
    site, services = played
    site.load("executor")
    services.run("migrate")
    services.serve()
    services.run("enrol")
    services.start("executor", "executor_started")
    services.start("worker", "worker_started")
    plane: UUID = next(plane.data_plane_id for plane in site.intake.planes() if plane.display_name == "local")
    (job_id,) = site.submit_running(plane)

    site.request(job_id)

    assert site.ended(job_id).state is JobState.CANCELLED
