"""The way to a control plane elsewhere, against servers that behave as networks and proxies do."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest

from control_plane.certificates import tls_context
from control_plane.errors import (
    BadInput,
    Conflict,
    ControlPlaneUnavailable,
    CountermandError,
    StoreUnavailable,
    Unauthenticated,
)
from control_plane.process_wire import Holds, Jobs
from tests.doubles.misbehaving_server import CERTIFICATE, Act, MisbehavingServer, answer, misbehaving
from workers import line
from workers.line import Bearer, Line, PlaneLine

PLANE = UUID(int=7)
GOOD = answer("200 OK", '{"job_ids": []}')
Answer = TypeVar("Answer")


def problem(kind: str, status: str, detail: str = "so it is") -> bytes:
    body = f'{{"type": "/problems/{kind}", "detail": "{detail}", "log_id": "l"}}'
    return answer(status, body, "application/problem+json")


def over_line(
    url: str,
    use: Callable[[Line], Awaitable[Answer]],
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """What *use* makes of a line that is opened for it."""

    async def scenario() -> Answer:
        line = Line(url, tls=tls or tls_context())
        try:
            return await use(line)
        finally:
            await line.aclose()

    return asyncio.run(scenario())


def ask(server: MisbehavingServer, *, bearer: Bearer | None = None, tls: ssl.SSLContext | None = None) -> Jobs:
    """One call of a plane's process."""

    async def use(line: Line) -> Jobs:
        plane = PlaneLine(line, bearer or Bearer(lambda: "ctm_token"), PLANE)
        return await plane.ask("/cancellations/release", Holds([]), Jobs)

    return over_line(server.url, use, tls)


def call(server: MisbehavingServer, **options: Any) -> Jobs:
    """One call of a process that was not let in yet."""

    async def use(line: Line) -> Jobs:
        return await line.call("GET", "/whoami", Jobs, bearer=Bearer(lambda: "ctm_token"))

    return over_line(server.url, use, **options)


# --- what passes


def test_a_call_names_the_plane_and_bears_the_token() -> None:
    with misbehaving(GOOD) as server:
        ask(server)

        [request] = server.requests
    assert request.startswith(f"POST /data-planes/{PLANE}/cancellations/release HTTP/1.1\r\n".encode())
    assert b"authorization: bearer ctm_token\r\n" in request.lower()


def test_a_call_whose_connection_was_cut_is_sent_again_at_once() -> None:
    """As when the server had closed the connection while it lay idle: nobody is told of an outage."""
    with misbehaving(Act.DROP, GOOD) as server:
        assert ask(server) == Jobs([])

        assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Unavailable", "504 Late"])
def test_what_may_answer_otherwise_later_is_an_outage(status: str) -> None:
    with misbehaving(answer(status, "<html>", "text/html")) as server:
        with pytest.raises(ControlPlaneUnavailable, match=status[:3]):
            ask(server)

        assert len(server.requests) == 1  # when to ask again is for whoever outlasts it


def test_a_store_that_is_away_is_an_outage_too() -> None:
    with (
        misbehaving(problem("store-unavailable", "503 Service Unavailable")) as server,
        pytest.raises(StoreUnavailable),
    ):
        ask(server)


def test_nobody_who_answers_is_an_outage() -> None:
    with misbehaving(GOOD) as server:
        pass

    with pytest.raises(ControlPlaneUnavailable, match="is away"):
        ask(server)


def test_something_else_that_answers_in_its_place_is_an_outage_for_whoever_was_let_in() -> None:
    with misbehaving(answer("200 OK", "<html>please log in</html>", "text/html")) as server:
        with pytest.raises(ControlPlaneUnavailable, match="not this version's control plane"):
            ask(server)
        with pytest.raises(BadInput, match="not this version's control plane"):
            call(server)


@pytest.mark.parametrize(
    ("kind", "status"),
    [("unauthenticated", "401 Unauthorized"), ("forbidden", "403 Forbidden"), ("not-found", "404 Not Found")],
)
def test_being_refused_is_an_outage_for_whoever_was_let_in(kind: str, status: str) -> None:
    with (
        misbehaving(problem(kind, status)) as server,
        pytest.raises(ControlPlaneUnavailable, match="refuses: so it is"),
    ):
        ask(server)


def test_what_the_call_itself_met_passes_as_what_it_is() -> None:
    with misbehaving(problem("conflict", "409 Conflict")) as server, pytest.raises(Conflict, match="so it is"):
        ask(server)


def test_a_bug_of_the_control_planes_is_no_outage() -> None:
    """Else a batch that breaks it would be sent for ever, instead of being narrowed down to the row at fault."""
    with misbehaving(problem("unexpected", "500 Internal Server Error")) as server:
        with pytest.raises(CountermandError) as caught:
            ask(server)

        assert type(caught.value) is CountermandError


# --- tokens


REFUSALS = [("unauthenticated", "401 Unauthorized"), ("forbidden", "403 Forbidden"), ("not-found", "404 Not Found")]


@pytest.mark.parametrize(("kind", "status"), REFUSALS)
def test_a_token_that_was_renewed_in_its_file_is_used_as_soon_as_the_old_one_is_refused(
    tmp_path: Path, kind: str, status: str
) -> None:
    """The old one may also be valid, and another plane's: whoever put it there by mistake corrects the file."""
    file = tmp_path / "token"
    file.write_text("ctm_old")
    bearer = Bearer(file.read_text)
    file.write_text("ctm_new")

    with misbehaving(problem(kind, status), GOOD) as server:
        ask(server, bearer=bearer)

        assert [b"ctm_new" in request for request in server.requests] == [False, True]


def test_calls_that_are_refused_together_all_use_the_renewed_token() -> None:
    texts = iter(["ctm_old"])
    bearer = Bearer(lambda: next(texts, "ctm_new"))
    refused = problem("unauthenticated", "401 Unauthorized")

    with misbehaving(refused, refused, GOOD) as server:

        async def use(line: Line) -> list[Jobs]:
            plane = PlaneLine(line, bearer, PLANE)
            calls = (plane.ask("/cancellations/release", Holds([]), Jobs) for _ in range(2))
            return await asyncio.gather(*calls)

        assert over_line(server.url, use) == [Jobs([])] * 2


def test_a_call_that_wants_to_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "CALL_SECONDS", 0.1)

    async def use(opened: Line) -> float:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ControlPlaneUnavailable, match="took too long"):
            await PlaneLine(opened, Bearer(lambda: "ctm_token"), PLANE).ask("/jobs/claim", {}, Jobs, wait_seconds=0.5)
        return asyncio.get_running_loop().time() - began

    with misbehaving(Act.HANG) as server:
        assert over_line(server.url, use) >= 0.5


def test_what_the_control_plane_finds_wrong_with_a_call_is_no_outage() -> None:
    detail = "limit: at most 1000 are taken"
    with misbehaving(problem("bad-input", "400 Bad Request", detail)) as server, pytest.raises(BadInput, match="limit"):
        ask(server)


def test_an_answer_that_only_drips_is_an_outage_after_as_long_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "CALL_SECONDS", 0.3)
    monkeypatch.setattr(line, "CONNECT_SECONDS", 0.3)

    with misbehaving(Act.DRIP) as server, pytest.raises(ControlPlaneUnavailable, match="took too long"):
        ask(server)


def test_a_token_that_is_refused_and_was_not_renewed_is_sent_once() -> None:
    with misbehaving(problem("unauthenticated", "401 Unauthorized")) as server:
        with pytest.raises(Unauthenticated):
            call(server)

        assert len(server.requests) == 1


def test_a_token_file_that_cannot_be_read_any_more_leaves_the_token_as_it_was() -> None:
    texts = iter(["ctm_first"])

    def read() -> str:
        for text in texts:
            return text
        raise BadInput("token_file: it is empty", field="token_file")

    bearer = Bearer(read)

    assert (bearer.is_renewed(since=bearer.header), bearer.header) == (False, {"Authorization": "Bearer ctm_first"})


def test_a_bearer_does_not_show_its_token() -> None:
    assert "ctm_secret" not in repr(Bearer(lambda: "ctm_secret"))


# --- certificates


def test_an_authority_of_ones_own_is_trusted_where_it_is_named() -> None:
    with misbehaving(GOOD, tls=True) as server:
        assert ask(server, tls=tls_context(CERTIFICATE)) == Jobs([])


def test_a_certificate_that_nobody_vouches_for_is_told_with_the_remedy() -> None:
    with misbehaving(GOOD, tls=True) as server, pytest.raises(BadInput, match=r"is not valid.*tls\.ca_file"):
        call(server)


def test_a_server_that_knows_its_clients_is_shown_the_certificate() -> None:
    with misbehaving(GOOD, tls=True, knows_clients=True) as server:
        tls = tls_context(CERTIFICATE, certificate_file=CERTIFICATE)

        assert ask(server, tls=tls) == Jobs([])
        with pytest.raises(ControlPlaneUnavailable):
            ask(server, tls=tls_context(CERTIFICATE))


def test_what_tls_meets_after_its_handshake_is_an_outage() -> None:
    """As of a client's certificate that has expired meanwhile: TLS 1.3 tells that with the first answer."""
    with (
        misbehaving(Act.GARBLE, tls=True) as server,
        pytest.raises(ControlPlaneUnavailable, match=r"(?i)bad record mac"),
    ):
        ask(server, tls=tls_context(CERTIFICATE))


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"ca_file": "nowhere.pem"}, "tls.ca_file"),
        ({"ca_file": "empty.pem"}, "tls.ca_file"),
        ({"certificate_file": "nowhere.pem"}, "tls.client_certificate_file"),
        ({"certificate_file": "empty.pem"}, "tls.client_certificate_file"),
    ],
)
def test_a_file_that_holds_no_certificate_is_named(files: dict[str, str], field: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()

    with pytest.raises(BadInput, match=f"^{field}: .*pem") as caught:
        tls_context(**{name: tmp_path / file for name, file in files.items()})

    assert caught.value.field == field
    missing = "nowhere.pem" in files.values()
    assert ("cannot be read: No such file or directory" in str(caught.value)) is missing
    assert "ssl.c" not in str(caught.value)


def test_a_proxy_before_the_control_plane_that_wants_a_certificate_is_understood() -> None:
    """As nginx answers over TLS whoever shows none, or one of another authority."""
    for told in ("No required SSL certificate was sent", "The SSL certificate error"):
        with (
            misbehaving(answer("400 Bad Request", f"<center>{told}</center>", "text/html")) as server,
            pytest.raises(BadInput, match=r"certificate.*tls\.client_certificate_file"),
        ):
            call(server)


# --- proxies


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with misbehaving(GOOD) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)

        async def use(line: Line) -> Jobs:
            return await line.call("GET", "/whoami", Jobs, bearer=Bearer(lambda: "ctm_token"))

        assert over_line("http://control-plane.example", use) == Jobs([])
        [request] = proxy.requests
    assert request.startswith(b"GET http://control-plane.example/whoami HTTP/1.1")


@pytest.mark.parametrize("proxy", ["ftp://proxy.example:1", "socks5://ada:secret@proxy.example:1080", "http://proxy:x"])
def test_a_proxy_that_cannot_be_used_is_told_in_a_sentence_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)

    with pytest.raises(BadInput, match=r"HTTPS_PROXY.*ALL_PROXY.*http://host:port") as caught:
        Line("https://control-plane.example", tls=tls_context())

    assert "secret" not in str(caught.value)
