"""The commands' client: against the real API, and against servers that are none, or are away."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import msgspec
import pytest
import uvicorn
from litestar.types import ASGIApp

from config.logging import configure_logging
from control_plane import errors
from control_plane.api.app import build_api
from control_plane.api.desk import Desk
from control_plane.certificates import tls_context
from control_plane.client import Client, is_loopback
from control_plane.errors import (
    BadInput,
    Conflict,
    ControlPlaneUnavailable,
    CountermandError,
    Forbidden,
    NotCancellable,
    NotFound,
    NotMigrated,
    StoreUnavailable,
    Unauthenticated,
)
from control_plane.jobs import JobType, Outcome
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.statements import ORDERS
from control_plane.tokens import NewToken, Permission, Tokens
from control_plane.wire import DataPlaneSubmission, JobSubmission, Order, PlatformObject
from tests.doubles.manual_clock import ManualClock
from tests.doubles.misbehaving_server import CERTIFICATE, Act, MisbehavingServer, answer, misbehaving
from tests.integration.given import VIEW_INPUT, Given

TOKEN = "ctm_00000000000000000000000000000000_a-secret"
NOBODY = UUID(int=7)
NO_JOBS = answer("200 OK", '{"current_page": 1, "total_records": 0, "total_pages": 0, "records": []}')
HTML = "text/html; charset=utf-8"
BAD_GATEWAY = answer("502 Bad Gateway", "<html>bad gateway</html>", HTML)
SUBMISSION = JobSubmission(data_plane_id=NOBODY, type=JobType.MATERIALIZE_VIEW, input=VIEW_INPUT)
PLANE = DataPlaneSubmission(display_name="new", platform=PlatformObject(Platform.NARRATIVE))


def problem(kind: str, status: int, detail: str = "it is so") -> bytes:
    document = {"type": f"/problems/{kind}", "title": "T", "status": status, "detail": detail, "log_id": str(NOBODY)}
    return answer(f"{status} T", json.dumps(document), "application/problem+json")


# --- the real API --------------------------------------------------------------------------------------------------


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """The application on a socket, as its own server would serve it; its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as opened:
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@dataclass(frozen=True)
class Served:
    """The API on a socket, over the given store."""

    given: Given
    url: str

    def client(self, *permissions: Permission, **fields: object) -> Client:
        """Somebody with a new token, by default of a person who may do everything."""
        whole = {"name": "Ada", "company_id": 1, "user_id": 7} | fields
        new = msgspec.convert(whole | {"permissions": list(permissions or Permission)}, NewToken)
        return Client(self.url, Tokens(self.given.store).create(new)[1])


@pytest.fixture
def served(given: Given) -> Iterator[Served]:
    with listening(build_api(Desk(given.store, Policy()))) as url:
        yield Served(given, url)


def submission(given: Given, **fields: object) -> JobSubmission:
    return msgspec.structs.replace(SUBMISSION, data_plane_id=given.plane.data_plane_id, **fields)


def test_a_job_is_submitted_found_cancelled_and_its_story_told(served: Served) -> None:
    with served.client() as client:
        job = client.submit_job(submission(served.given))
        found = client.list_jobs(state=JobState.PENDING, type_=job.type, order_by=Order.UPDATED_AT_ASC, per_page=1)
        asked = client.request_cancellation(job.job_id, "wrong month")
        progress = client.get_cancellation(job.job_id)
        told = client.list_job_events(job.job_id)

        assert found.records == [job]
        assert (asked.state, asked.cancellation and asked.cancellation.reason) == (
            JobState.PENDING_CANCELLATION,
            "wrong month",
        )
        assert (progress.state, progress.proven, progress.stuck) == (JobState.CANCELLED, True, False)
        assert [entry.move for entry in told.records] == ["submit", "request_cancellation", "cancel"]
        assert client.get_job(job.job_id).receipt == progress.receipt


def test_filters_and_pages_reach_the_store(served: Served) -> None:
    given = served.given
    elsewhere = given.pending(plane=given.new_plane())
    first, second = given.pending(), given.pending()

    with served.client() as client:
        here = client.list_jobs(data_plane_id=given.plane.data_plane_id, order_by=Order.CREATED_AT_ASC)
        page = client.list_jobs(order_by=Order.CREATED_AT_ASC, per_page=1, offset=1)
        none = client.list_jobs(dataset_id=1)

    assert [job.job_id for job in here.records] == [first.job_id, second.job_id]
    assert elsewhere.job_id not in {job.job_id for job in here.records}
    assert ([job.job_id for job in page.records], page.current_page) == ([first.job_id], 2)
    assert none.total_records == 0


def test_a_plane_is_made_found_and_archived(served: Served) -> None:
    with served.client() as client:
        made = client.create_data_plane(msgspec.structs.replace(PLANE, collaborators=[2], tags=["eu"]))
        listed = client.list_data_planes()
        archived = client.archive_data_plane(made.data_plane_id)

        assert made in listed
        assert (made.collaborators, made.tags, made.status) == ([2], ["eu"], "active")
        assert archived == client.get_data_plane(made.data_plane_id)
        assert archived.status == "archived"


def test_a_persons_word_ends_a_cancellation(served: Served) -> None:
    claim = served.given.requested()

    with served.client() as client:
        attested = client.attest(claim.job_id, "the cluster was deleted")

    assert attested.state is JobState.CANCELLED
    assert attested.receipt is not None
    assert (attested.receipt.outcome, attested.receipt.worker) == (Outcome.ATTESTED, "Ada")


def test_a_cancellation_that_waits_too_long_is_stuck_until_it_ends(served: Served) -> None:
    given = served.given
    claim = given.requested()
    with served.client() as client:
        at_first = client.get_cancellation(claim.job_id).stuck
        given.clock.advance(given.plane.stuck_after_seconds + 1)
        at_last = client.get_cancellation(claim.job_id).stuck
        client.attest(claim.job_id, "the cluster was deleted")
        afterwards = client.get_cancellation(claim.job_id).stuck

    assert (at_first, at_last, afterwards) == (False, True, False)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda client, _: client.get_job(NOBODY), NotFound, f"job_id: there is no job {NOBODY}"),
        (
            lambda client, given: client.request_cancellation(given.pending(JobType.DELIVER_DATA).job_id),
            NotCancellable,
            "type: a datasets_deliver_data job cannot be cancelled",
        ),
        (
            lambda client, given: client.submit_job(submission(given, input={"nql": 1})),
            BadInput,
            "input: ",
        ),
        (
            lambda client, given: client.attest(given.pending().job_id, "it stopped"),
            Conflict,
            "job_id: ",
        ),
        (lambda client, _: client.list_jobs(per_page=501), BadInput, "per_page: "),
    ],
)
def test_a_problem_is_our_own_error_again(
    served: Served, call: Callable[[Client, Given], object], kind: type[CountermandError], sentence: str
) -> None:
    with served.client() as client, pytest.raises(CountermandError) as raised:
        call(client, served.given)

    assert type(raised.value) is kind
    assert raised.value.message.startswith(sentence)
    assert raised.value.field == sentence.partition(":")[0]


def test_who_is_not_known_and_who_may_not_are_told_apart(served: Served) -> None:
    with Client(served.url, TOKEN) as unknown, pytest.raises(Unauthenticated):
        unknown.list_jobs()
    with served.client(Permission.JOBS_READ) as reader, pytest.raises(Forbidden, match="data_planes:read"):
        reader.list_data_planes()


def test_what_json_cannot_say_is_refused_before_it_is_sent(served: Served) -> None:
    with served.client() as client:
        for value in (float("nan"), float("inf"), "\0", "\udc80", 2**70):
            with pytest.raises(BadInput):
                client.submit_job(submission(served.given, input=VIEW_INPUT | {"dataset_id": value}))

        assert client.list_jobs().total_records == 0


# --- a control plane that is away ----------------------------------------------------------------------------------


class Impatient(Client):
    """A client of a misbehaving server, which does not pause; remembers what it told."""

    def __init__(
        self,
        server: MisbehavingServer | str,
        *,
        patience_seconds: float = 60.0,
        pause: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.told: list[str] = []
        url = server if isinstance(server, str) else server.url
        super().__init__(url, TOKEN, patience_seconds=patience_seconds, tell=self.told.append, pause=pause)


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A pause that takes no time, where patience counts nothing but pauses: a call may take as long as it needs."""
    clock = ManualClock()
    for module in ("tenacity", "control_plane.client"):
        monkeypatch.setattr(f"{module}.time", clock.clock())
    monkeypatch.setattr("control_plane.client.LEAST_SECONDS", 60.0)
    return clock.advance


@pytest.mark.parametrize("trouble", [BAD_GATEWAY, problem("store-unavailable", 503), answer("429 Slow down"), Act.DROP])
def test_a_call_that_changes_nothing_is_repeated_and_both_ends_of_the_outage_are_told(trouble: bytes | Act) -> None:
    with misbehaving(trouble, trouble, NO_JOBS) as server, Impatient(server) as client:
        assert client.list_jobs().records == []

        assert len(server.requests) == 3
        assert len(client.told) == 2
        assert client.told[0].startswith(f"the control plane at {server.url} does not answer (")
        assert client.told[1] == "the control plane answers again"


REPEATABLE: list[Callable[[Client], object]] = [
    lambda client: client.get_job(NOBODY),
    lambda client: client.request_cancellation(NOBODY, "why"),
    lambda client: client.archive_data_plane(NOBODY),
    lambda client: client.submit_job(msgspec.structs.replace(SUBMISSION, idempotency_key="k")),
]
UNREPEATABLE: list[Callable[[Client], object]] = [
    lambda client: client.submit_job(SUBMISSION),
    lambda client: client.create_data_plane(PLANE),
    lambda client: client.attest(NOBODY, "it stopped"),
]


@pytest.mark.parametrize("trouble", [Act.DROP, BAD_GATEWAY])
@pytest.mark.parametrize("call", REPEATABLE)
def test_an_idempotent_call_is_sent_again_as_it_was(call: Callable[[Client], object], trouble: bytes | Act) -> None:
    with misbehaving(trouble, problem("not-found", 404)) as server, Impatient(server) as client:
        with pytest.raises(NotFound):
            call(client)

        first, second = server.requests
        assert first == second


@pytest.mark.parametrize("trouble", [Act.DROP, BAD_GATEWAY, answer("503 Busy")])
@pytest.mark.parametrize("call", UNREPEATABLE)
def test_a_call_that_may_have_been_done_is_never_sent_again(
    call: Callable[[Client], object], trouble: bytes | Act
) -> None:
    with misbehaving(trouble) as server, Impatient(server) as client:
        with pytest.raises(ControlPlaneUnavailable) as raised:
            call(client)

        assert len(server.requests) == 1
        assert "may have been done all the same" in raised.value.message


@pytest.mark.parametrize("call", [*REPEATABLE, *UNREPEATABLE])
def test_what_never_reached_anybody_is_sent_again(
    call: Callable[[Client], object], pause: Callable[[float], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"

    with Impatient(address, patience_seconds=1.0, pause=pause) as client:
        with pytest.raises(ControlPlaneUnavailable, match=f"{address} is away") as raised:
            call(client)

        assert len(client.told) == 1
        assert "may have been done" not in raised.value.message


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    with (
        misbehaving(Act.HANG) as server,
        Impatient(server, patience_seconds=0.1) as client,
        pytest.raises(ControlPlaneUnavailable, match="it took too long"),
    ):
        client.list_jobs()

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (problem("not-migrated", 503), NotMigrated),
        (problem("unexpected", 500), CountermandError),
        (problem("request-timeout", 408), ControlPlaneUnavailable),
        (answer("500 Oops", "<html>", HTML), ControlPlaneUnavailable),
    ],
)
def test_what_repeating_does_not_mend_is_told_at_once(told: bytes, kind: type[CountermandError]) -> None:
    with misbehaving(told) as server, Impatient(server) as client:
        with pytest.raises(kind):
            client.list_jobs()

        assert len(server.requests) == 1


def test_patience_ends_with_the_last_answer_and_its_log_id(pause: Callable[[float], None]) -> None:
    trouble = problem("store-unavailable", 503, "the database is away")
    with misbehaving(trouble) as server, Impatient(server, patience_seconds=1.0, pause=pause) as client:
        with pytest.raises(StoreUnavailable) as raised:
            client.list_jobs()

        assert len(server.requests) > 1

    assert raised.value.message == f"the database is away (log_id {NOBODY})"


def every_error() -> list[type[CountermandError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CountermandError)]
    return [kind for kind in found if kind is not CountermandError]


class Heir(errors.EngineUnavailable):
    """An adapter's own error: of the same name as ours, and made otherwise."""

    def __init__(self) -> None:
        super().__init__("it does not answer")


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_comes_back_as_itself(kind: type[CountermandError]) -> None:
    told = problem(kind.problem_type, 400, "field_name: it is so")
    with misbehaving(told) as server, Impatient(server) as client, pytest.raises(CountermandError) as raised:
        client.list_jobs()

    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.field) == ("field_name: it is so", "field_name")


def test_a_problem_of_a_later_version_is_told_in_its_own_words() -> None:
    with misbehaving(problem("gone", 410, "it was there")) as server, Impatient(server) as client:
        with pytest.raises(BadInput) as raised:
            client.list_jobs()

        assert raised.value.message == "it was there"


# --- what is no control plane --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (answer("200 OK", "<html>\nWelcome!</html>", HTML), "200 OK with text/html"),
        (answer("404 Not Found", "<html>", HTML), "404 Not Found with text/html"),
        (answer("401 Unauthorized", "{}"), "401 Unauthorized with application/json"),
        (answer("200 OK", '{"records": ['), "JSON is malformed|truncated"),
        (answer("200 OK", "[" * 100_000), "200 OK"),
        (answer("200 OK", '{"jobs": []}'), "missing required field"),
        (answer("200 OK", "\xff"), "200 OK"),
        (
            answer("302 Found", Location="https://elsewhere.example/login"),
            "redirects to https://elsewhere.example/login",
        ),
        (answer("200 OK", "not zipped", Content_Encoding="gzip"), "cannot be unpacked"),
    ],
)
def test_what_is_no_control_plane_is_called_so_in_one_sentence(told: bytes, seen: str) -> None:
    with misbehaving(told) as server, Impatient(server) as client:
        with pytest.raises(BadInput, match=seen) as raised:
            client.list_jobs()

        assert len(server.requests) == 1
        assert raised.value.message.startswith(f"url: what answers at {server.url} is not this version's control plane")
        assert raised.value.field == "url"
        assert "\n" not in raised.value.message


def test_a_server_that_speaks_something_else_is_not_waited_for_in_vain() -> None:
    with misbehaving(b"SSH-2.0-OpenSSH_9.6\r\n") as server, Impatient(server, patience_seconds=1.0) as client:
        with pytest.raises(ControlPlaneUnavailable) as raised:
            client.list_jobs()

        assert raised.value.message.startswith(f"the control plane at {server.url} is away: ")


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once_and_the_token_never_sent() -> None:
    with misbehaving(NO_JOBS, tls=True) as server, Impatient(server) as client:
        with pytest.raises(BadInput) as raised:
            client.list_jobs()

        assert (server.requests, client.told) == ([], [])
        assert raised.value.message.startswith(f"url: the certificate of {server.url} is not valid: self-signed")
        assert "SSL_CERT_FILE" in raised.value.message


def test_an_authority_of_ones_own_is_trusted_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    with misbehaving(NO_JOBS, tls=True) as server, Impatient(server) as client:
        assert client.list_jobs().records == []


def test_a_server_that_asks_everybody_for_a_certificate_is_shown_one() -> None:
    tls = tls_context(CERTIFICATE, certificate_file=CERTIFICATE)

    with (
        misbehaving(NO_JOBS, tls=True, knows_clients=True) as server,
        Client(server.url, "ctm_token", tls=tls) as client,
    ):
        assert client.list_jobs().records == []


def test_an_address_may_have_a_path_that_a_proxy_needs() -> None:
    with misbehaving(NO_JOBS) as server, Impatient(f"{server.url}/countermand/") as client:
        client.list_jobs()

        assert server.requests[0].startswith(b"GET /countermand/jobs?")


def test_a_proxy_that_cannot_be_used_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    monkeypatch.delenv("NO_PROXY", raising=False)

    with pytest.raises(BadInput, match=r"HTTPS_PROXY.*http://host:port"):
        Client("https://control-plane.example", "ctm_token")


def test_this_machine_is_not_asked_by_way_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    with misbehaving(NO_JOBS) as server, Impatient(server) as client:
        assert client.list_jobs().records == []


# --- the token -----------------------------------------------------------------------------------------------------


def test_the_token_stands_in_the_request_alone(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    logging.getLogger("httpcore").setLevel(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.DEBUG)

    with misbehaving(BAD_GATEWAY, problem("unexpected", 500)) as server, Impatient(server) as client:
        with pytest.raises(CountermandError) as raised:
            client.list_jobs()
        told = [repr(client), str(vars(client)), str(raised.value), *client.told, *capfd.readouterr()]

        assert f"Bearer {TOKEN}".encode() in server.requests[0]
        assert [text for text in told if TOKEN in text] == []


@pytest.mark.parametrize("token", ["", "two words", "two\nlines", "schlüssel"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(BadInput) as raised:
        Client("http://127.0.0.1:1", token)

    assert raised.value.message == "token: it is not what `countermand tokens create` prints"


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://[::1]:8080", True),
        ("http://127.8.8.8", True),
        ("http://countermand.localhost", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
    ],
)
def test_an_address_of_this_machine_is_known(url: str, stays: bool) -> None:
    assert is_loopback(url) is stays


def test_the_orders_of_a_listing_are_the_stores() -> None:
    assert list(Order) == sorted(ORDERS)
