"""How users' commands find the control plane, who they are there, and what they say where it cannot be had."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from control_plane.dispatch import Dispatch
from control_plane.errors import ExitCode
from control_plane.intake import NewPlane
from control_plane.jobs import ApiUser, JobType
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.tokens import Permission
from control_plane.work import Executor
from tests.acceptance.site import Site, site_of, until
from tests.acceptance.test_bad_input import assert_refused
from tests.databases import Databases
from tests.doubles.misbehaving_server import answer, misbehaving

FORECAST = json.dumps({"nql": "SELECT 1", "compiled_sql": "SELECT 1"})
SUBMIT = ("jobs", "submit", "--type", "nql-forecast", "--input", FORECAST, "--data-plane")


@pytest.fixture(scope="module")
def shared_site(databases: Databases) -> Iterator[Site]:
    """A site with a plane, for tests that leave nothing behind that another could trip over."""
    with databases.lend_sqlite() as url, site_of(url) as site:
        site.plane()
        yield site


def given_started(site: Site) -> UUID:
    """A job that an executor has started, on a plane of its own that no worker looks after."""
    plane = site.intake.create_plane(NewPlane(f"quiet {uuid4()}", Platform.NARRATIVE)).data_plane_id
    job_id = site.submit(plane)
    dispatch, executor = Dispatch(site.store), Executor(f"job-executor-{uuid4()}", 1)
    dispatch.register(executor, data_plane_id=plane)
    dispatch.start(executor, data_plane_id=plane, types=[JobType.MATERIALIZE_VIEW], limit=1, incarnation="1")
    return job_id


# --- who asks ------------------------------------------------------------------------------------------------------


def test_without_a_token_the_one_sentence_says_how_to_get_one(shared_site: Site) -> None:
    refused = shared_site.run("jobs", "list", COUNTERMAND_TOKEN="")

    assert_refused(refused, ExitCode.UNAUTHENTICATED, "COUNTERMAND_TOKEN", "countermand tokens create NAME")


def test_a_token_that_does_not_count_and_one_that_does_not_allow_it_end_differently(shared_site: Site) -> None:
    reader = shared_site.token(Permission.JOBS_READ, name="reader")

    unknown = shared_site.run("jobs", "list", COUNTERMAND_TOKEN="ctm_of-nobody")
    allowed = shared_site.run("jobs", "list", COUNTERMAND_TOKEN=reader)
    forbidden = shared_site.run("jobs", "request-cancellation", str(UUID(int=1)), COUNTERMAND_TOKEN=reader)

    assert_refused(unknown, ExitCode.UNAUTHENTICATED, "token")
    assert allowed.returncode == ExitCode.OK
    assert_refused(forbidden, ExitCode.FORBIDDEN, "'reader'", "jobs:write")


def test_a_plane_needs_no_permission_by_its_id_and_one_by_its_name(shared_site: Site) -> None:
    plane = str(shared_site.intake.planes()[0].data_plane_id)
    writer = shared_site.token(Permission.JOBS_WRITE, name="writer")

    by_id = shared_site.run(*SUBMIT, plane, COUNTERMAND_TOKEN=writer)
    by_name = shared_site.run(*SUBMIT, "local", COUNTERMAND_TOKEN=writer)

    assert by_id.returncode == ExitCode.OK, by_id.stderr
    assert_refused(by_name, ExitCode.FORBIDDEN, "data_planes:read", "give the data plane's id instead of its name")


def test_a_bound_token_is_made_by_the_planes_name(shared_site: Site) -> None:
    plane = str(shared_site.intake.planes()[0].data_plane_id)

    made = shared_site.run("tokens", "create", "--permission", "jobs:read", "--plane", "local", "--json")

    assert next(iter(json.loads(made.stdout))) == "token"
    [known] = [
        token
        for token in json.loads(shared_site.run("tokens", "list", "--json").stdout)["records"]
        if token["data_plane_id"] == plane
    ]
    assert known["token_id"] == json.loads(made.stdout)["token_id"]


# --- where it is ---------------------------------------------------------------------------------------------------


def write_settings(folder: Path, text: str) -> dict[str, str]:
    """The user's own settings file, and the environment in which it is read."""
    path = folder / "countermand" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return {"XDG_CONFIG_HOME": str(folder), "COUNTERMAND_URL": "", "COUNTERMAND_TOKEN": ""}


def test_a_profile_says_where_and_who(shared_site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(shared_site.token(name="by-file") + "\n")
    text = f"""
        profile = "nowhere"
        [profiles.here]
        url = "{shared_site.api_url}"
        token_file = "{secret}"
        [profiles.nowhere]
        url = "http://127.0.0.1:1/"
    """
    environment = write_settings(tmp_path, text)

    chosen = shared_site.run("--profile", "here", *SUBMIT, "local", "--json", **environment)
    by_variable = shared_site.run("jobs", "list", **environment | {"COUNTERMAND_PROFILE": "here"})
    by_file = shared_site.run("jobs", "list", **environment)
    unknown = shared_site.run("--profile", "there", "jobs", "list", **environment)

    assert chosen.returncode == ExitCode.OK, chosen.stderr
    assert json.loads(chosen.stdout)["request_source"] == {"type": "process", "name": "token:by-file"}
    assert by_variable.returncode == ExitCode.OK, by_variable.stderr
    assert_refused(by_file, ExitCode.UNAUTHENTICATED, "no token")
    assert_refused(unknown, ExitCode.BAD_INPUT, "--profile", "'there'", "here, nowhere")


def test_an_option_wins_over_the_environment_and_that_over_a_profile(shared_site: Site, tmp_path: Path) -> None:
    text = '[profiles.wrong]\nurl = "http://127.0.0.1:1"\ntoken = "ctm_of-nobody"'
    environment = write_settings(tmp_path, text) | {"COUNTERMAND_PROFILE": "wrong"}

    by_variables = shared_site.run("jobs", "list", **environment | shared_site.access)
    by_option = shared_site.run(
        *("--url", shared_site.api_url, "jobs", "list"),
        **environment | shared_site.access | {"COUNTERMAND_URL": "http://127.0.0.1:1"},
    )

    assert by_variables.returncode == ExitCode.OK, by_variables.stderr
    assert by_option.returncode == ExitCode.OK, by_option.stderr


@pytest.mark.parametrize(
    ("url", "mentions"),
    [
        ("ftp://127.0.0.1", ("http://host:port or https://host",)),
        ("127.0.0.1:8080", ("http://host:port or https://host",)),
        ("http://ada:secret@127.0.0.1:8080", ("without a name and a password", "token_file")),
        ("https://127.0.0.1/?token=secret", ("without a query",)),
    ],
)
def test_an_address_that_cannot_be_right_is_refused_and_no_secret_in_it_repeated(
    shared_site: Site, url: str, mentions: tuple[str, ...]
) -> None:
    refused = shared_site.run("jobs", "list", COUNTERMAND_URL=url, COUNTERMAND_TOKEN="ctm_x")

    assert_refused(refused, ExitCode.BAD_INPUT, "Environment variable COUNTERMAND_URL: url should be", *mentions)
    assert "secret" not in refused.stderr


def test_what_answers_and_is_no_control_plane_is_called_so(shared_site: Site) -> None:
    with misbehaving(answer("200 OK", "<html>Welcome!</html>", "text/html")) as server:
        refused = shared_site.run("planes", "list", COUNTERMAND_URL=server.url, COUNTERMAND_TOKEN="ctm_x")

    assert_refused(refused, ExitCode.BAD_INPUT, server.url, "is not this version's control plane", "text/html")


def test_a_control_plane_that_is_away_is_waited_for_and_then_named(shared_site: Site) -> None:
    refused = shared_site.run("jobs", "list", COUNTERMAND_URL="http://127.0.0.1:1", COUNTERMAND_TOKEN="ctm_x")

    first, last = refused.stderr.splitlines()
    assert (refused.returncode, refused.stdout) == (ExitCode.UNAVAILABLE, "")
    assert first.endswith("; trying again")
    assert last.startswith("countermand: the control plane at http://127.0.0.1:1 is away: ")


def test_a_token_that_travels_unencrypted_is_warned_of(shared_site: Site) -> None:
    """A name that never resolves: nothing is sent."""
    told = shared_site.run("jobs", "list", COUNTERMAND_URL="http://countermand.invalid", COUNTERMAND_TOKEN="ctm_x")

    assert told.returncode == ExitCode.UNAVAILABLE
    assert told.stderr.startswith("countermand: the token travels unencrypted to http://countermand.invalid")
    assert "ctm_x" not in told.stderr


# --- waiting -------------------------------------------------------------------------------------------------------


def test_waiting_outlasts_an_outage_and_tells_of_its_beginning_and_its_end(sqlite_site: Site) -> None:
    site, job_id = sqlite_site, given_started(sqlite_site)
    [port] = [event["port"] for event in site.server.events("server_started")]
    waiting = site.start("wait", "workers", "jobs", "request-cancellation", str(job_id), "--wait")
    until(lambda: "pending_cancellation" in waiting.says(), what="that it waits")

    site.server.kill()
    until(lambda: "does not answer" in waiting.says(), what="that the outage is told")
    site.intake.attest(job_id, ApiUser(1, 7), "Ada", "the machine was switched off")
    site.serve(port=port)

    assert waiting.process.wait(60) == ExitCode.UNPROVEN
    assert "the control plane answers again" in waiting.says()
    assert f"{job_id}: cancelled, attested" in waiting.says()


def test_who_may_ask_and_not_look_is_told_that_the_request_stands(shared_site: Site) -> None:
    job_id, writer = given_started(shared_site), shared_site.token(Permission.JOBS_WRITE, name="writer")

    refused = shared_site.run("jobs", "request-cancellation", str(job_id), "--wait", COUNTERMAND_TOKEN=writer)

    assert refused.returncode == ExitCode.FORBIDDEN
    assert refused.stderr.splitlines()[-1].endswith("jobs:read, so it cannot be waited for; the request stands")
    assert shared_site.intake.job(job_id).state is JobState.PENDING_CANCELLATION


# --- what ends with a person's word --------------------------------------------------------------------------------


def test_an_attestation_ends_a_cancellation_and_is_shown_as_unproven(shared_site: Site) -> None:
    job_id = str(given_started(shared_site))
    person = shared_site.token(*Permission, name="Ada", user_id=7)
    word = ("jobs", "attest", job_id, "--attestation", "the machine was switched off")

    too_early = shared_site.run(*word, COUNTERMAND_TOKEN=person)
    shared_site.run("jobs", "request-cancellation", job_id, "--reason", "wrong month")
    nobodys = shared_site.run(*word)
    attested = shared_site.run(*word, COUNTERMAND_TOKEN=person)
    events = shared_site.run("jobs", "events", job_id)

    assert_refused(too_early, ExitCode.CONFLICT, "request its cancellation first")
    assert_refused(nobodys, ExitCode.FORBIDDEN, "jobs:attest")
    assert (attested.returncode, attested.stdout) == (
        ExitCode.OK,
        f"{job_id}: cancelled, attested, and unproven: nothing but the word of Ada says that it stopped\n",
    )
    header, *rows = [line.split() for line in events.stdout.splitlines()]
    assert header == ["move", "from", "to", "who", "why", "when"]
    assert [row[0] for row in rows] == ["submit", "start", "request_cancellation", "cancel"]
    assert rows[2][1:6] == ["running", "pending_cancellation", "token:site", "wrong", "month"]
    assert rows[3][3:8] == ["user", "7", "of", "company", "1"]


def test_an_events_document_is_the_apis(shared_site: Site) -> None:
    job_id = str(given_started(shared_site))

    told = json.loads(shared_site.run("jobs", "events", job_id, "--json").stdout)

    assert [entry["move"] for entry in told["records"]] == ["submit", "start"]


# --- planes --------------------------------------------------------------------------------------------------------


def test_a_plane_is_made_for_others_shown_and_archived(shared_site: Site) -> None:
    made = shared_site.run("planes", "create", "short-lived", "--collaborator", "2", "--collaborator", "3", "--json")
    shown = shared_site.run("planes", "show", "short-lived", "--json")
    archived = shared_site.run("planes", "archive", "short-lived")
    refused = shared_site.run(*SUBMIT, "short-lived")

    assert made.returncode == ExitCode.OK, made.stderr
    assert json.loads(shown.stdout)["collaborators"] == [2, 3]
    assert archived.stdout == f"Archived data plane short-lived, {json.loads(made.stdout)['data_plane_id']}.\n"
    assert_refused(refused, ExitCode.CONFLICT, "archived")


def test_a_plane_with_a_job_that_has_not_ended_stays(shared_site: Site) -> None:
    plane = shared_site.intake.job(given_started(shared_site)).data_plane_id

    refused = shared_site.run("planes", "archive", str(plane))

    assert_refused(refused, ExitCode.CONFLICT, "jobs that have not ended")


# --- completion ----------------------------------------------------------------------------------------------------


def completed(site: Site, *words: str, **environment: str) -> list[str]:
    """What bash would offer for the last of the words, by the protocol that its script speaks."""
    protocol = {"_COUNTERMAND_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("countermand", *words))}
    told = site.run(**protocol | {"COMP_CWORD": str(len(words))} | environment)
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("jobs", "list", "--state", "pending"), ["pending", "pending_cancellation"]),
        (("jobs", "list", "--type", "datasets_de"), ["datasets_delete_table", "datasets_deliver_data"]),
        (("jobs", "list", "--order-by", "created"), ["created_at_asc", "created_at_desc"]),
        (("jobs", "submit", "--execution-cluster", ""), ["shared", "dedicated"]),
        (("planes", "create", "--platform", ""), ["platform_aws", "platform_snowflake"]),
        (("tokens", "create", "--permission", "jobs"), ["jobs:read", "jobs:write", "jobs:attest"]),
        (("jobs", "at"), ["attest"]),
    ],
)
def test_bash_is_offered_what_can_be_chosen(shared_site: Site, words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(shared_site, *words) == offered


def test_bash_is_offered_the_profiles_of_the_settings_file(shared_site: Site, tmp_path: Path) -> None:
    environment = write_settings(tmp_path, '[profiles.prod]\nurl = "https://p"\n[profiles.staging]\nurl = "https://s"')
    broken = tmp_path / "broken.toml"
    broken.write_text("[")

    assert completed(shared_site, "--profile", "", **environment) == ["prod", "staging"]
    assert completed(shared_site, "--config", str(broken), "--profile", "") == []


def test_bash_is_given_a_script_that_asks_the_command(shared_site: Site) -> None:
    told = shared_site.run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")

    assert told.returncode == 0, told.stderr
    assert "_COUNTERMAND_COMPLETE=complete_bash" in told.stdout


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda url: url.replace("http:", "https:"), "speaks no TLS: is it an http:// address?"),
        (lambda url: f"{url}/api/v1", "is not this version's control plane: there is nothing at this path"),
    ],
    ids=["https", "a path"],
)
def test_an_address_that_is_nearly_right_is_named_at_once(
    shared_site: Site, changed: Callable[[str], str], said: str
) -> None:
    url = changed(shared_site.api_url)

    told = shared_site.run("jobs", "list", COUNTERMAND_URL=url, COUNTERMAND_TOKEN=shared_site.token())

    assert told.returncode == ExitCode.BAD_INPUT
    assert told.stderr.startswith("countermand: url: ")
    assert said in told.stderr


@pytest.mark.parametrize("days", ["0", "-1", "1e9", "nan"])
def test_a_tokens_days_are_checked_under_their_own_name(shared_site: Site, days: str) -> None:
    told = shared_site.run("tokens", "create", "short", "--permission", "jobs:read", "--days", days)

    assert (told.returncode, told.stdout) == (ExitCode.BAD_INPUT, "")
    assert told.stderr.startswith("countermand: days: ")
