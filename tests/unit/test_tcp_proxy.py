"""The proxy that tests put between a worker and its control plane does what it says."""

import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.doubles.misbehaving_server import Act, MisbehavingServer, answer, misbehaving
from tests.doubles.tcp_proxy import Fault, TcpProxy, proxied


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with misbehaving(answer("200 OK", '"here"')) as started:
        yield started


@pytest.fixture
def proxy(server: MisbehavingServer) -> Iterator[TcpProxy]:
    with proxied(place_of(server.url)) as started:
        yield started


#: What httpx says of a reset: the second, where the reset came before the request was sent.
RESET = "reset|disconnected"


def place_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def ask(proxy: TcpProxy, path: str = "/jobs", *, seconds: float = 20.0) -> str:
    """What is answered by way of the proxy."""
    with httpx.Client(trust_env=False, timeout=seconds) as client:
        return client.post(proxy.url + path, content=b"1").text


def test_without_a_fault_everything_passes(proxy: TcpProxy, server: MisbehavingServer) -> None:
    assert [ask(proxy), ask(proxy, "/other")] == ['"here"', '"here"']
    assert len(server.requests) == 2
    assert proxy.requests == ["POST /jobs HTTP/1.1", "POST /other HTTP/1.1"]


def test_a_delay_holds_up_the_request_and_its_answer(proxy: TcpProxy) -> None:
    proxy.begin(Fault.DELAY)
    began = time.monotonic()

    assert ask(proxy) == '"here"'

    assert time.monotonic() - began >= 0.4


def test_what_a_black_hole_has_swallowed_arrives_once_it_is_lifted(proxy: TcpProxy, server: MisbehavingServer) -> None:
    proxy.begin(Fault.BLACK_HOLE)
    with pytest.raises(httpx.ReadTimeout):
        ask(proxy, seconds=0.3)
    assert server.requests == []

    proxy.calm()

    assert ask(proxy) == '"here"'
    assert len(server.requests) == 2  # the first, too, though its client has gone


def test_a_request_whose_answer_is_withheld_has_arrived(proxy: TcpProxy, server: MisbehavingServer) -> None:
    proxy.begin(Fault.WITHHOLD_ANSWERS)
    with pytest.raises(httpx.ReadTimeout):
        ask(proxy, seconds=0.5)

    wait_for_requests(server)

    proxy.calm()
    assert ask(proxy) == '"here"'
    assert len(server.requests) == 2


def test_a_fault_that_ends_when_it_is_asked_for_something_ends_with_that_request_and_no_other(proxy: TcpProxy) -> None:
    proxy.begin(Fault.WITHHOLD_ANSWERS)
    proxy.calm_when_asked("/jobs")
    with pytest.raises(httpx.ReadTimeout):
        ask(proxy, "/other", seconds=0.5)

    assert ask(proxy, "/jobs") == '"here"'


def test_a_reset_is_met_by_new_connections(proxy: TcpProxy, server: MisbehavingServer) -> None:
    with proxy.doing(Fault.RESET), pytest.raises(httpx.TransportError, match=RESET):
        ask(proxy)

    assert server.requests == []
    assert ask(proxy) == '"here"'


def test_a_reset_is_met_by_connections_that_wait() -> None:
    with misbehaving(Act.HANG) as server, proxied(place_of(server.url)) as proxy:
        errors: list[Exception] = []
        waiting = threading.Thread(target=lambda: errors.append(failure_of(proxy)))
        waiting.start()
        wait_for_requests(server)

        proxy.begin(Fault.RESET)

        waiting.join()
        assert [type(error) for error in errors] == [httpx.ReadError]


def wait_for_requests(server: MisbehavingServer) -> None:
    """Until the first has arrived; it has to."""
    ends = time.monotonic() + 20
    while not server.requests:
        assert time.monotonic() < ends, "no request has arrived"
        time.sleep(0.01)


def failure_of(proxy: TcpProxy) -> Exception:
    with pytest.raises(httpx.TransportError) as raised:
        ask(proxy)
    return raised.value


def test_a_request_whose_answer_is_lost_has_arrived(proxy: TcpProxy, server: MisbehavingServer) -> None:
    proxy.begin(Fault.LOSE_ANSWERS)

    with pytest.raises(httpx.TransportError, match=RESET):
        ask(proxy)

    assert len(server.requests) == 1
    assert proxy.met == ["POST /jobs HTTP/1.1"]


def test_a_fault_can_be_confined_to_some_requests_and_to_so_many_times(proxy: TcpProxy) -> None:
    proxy.begin(Fault.LOSE_ANSWERS, only="/settle", times=1)

    assert ask(proxy, "/claim") == '"here"'
    with pytest.raises(httpx.TransportError, match=RESET):
        ask(proxy, "/settle")
    assert ask(proxy, "/settle") == '"here"'
    assert proxy.count("/settle") == 2


def test_a_server_that_is_not_there_is_told_by_a_reset() -> None:
    nobody = socket.create_server(("127.0.0.1", 0))
    with nobody:
        upstream = nobody.getsockname()
    with proxied(upstream) as proxy, pytest.raises(httpx.TransportError):
        ask(proxy)
