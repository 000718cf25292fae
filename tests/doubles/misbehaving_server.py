"""An HTTP server that answers by a script, also in ways that no server should."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("self_signed.pem")


class Act(Enum):
    """What it does instead of answering."""

    DROP = auto()  #: reads the request, and closes the connection
    HANG = auto()  #: reads the request, and says nothing
    GARBLE = auto()  #: answers, below TLS, what nobody has encrypted
    DRIP = auto()  #: answers a byte now and then, and comes to no end


def answer(status: str, body: str = "", content_type: str = "application/json", **headers: str) -> bytes:
    """A whole answer as it travels."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body.encode())}\r\n"
    return f"{head}Connection: close\r\n{more}\r\n{body}".encode()


class MisbehavingServer:
    """Performs one act for each request, the last one again and again; remembers what it was sent."""

    def __init__(self, script: Sequence[bytes | Act], *, tls: bool = False, knows_clients: bool = False) -> None:
        self.requests: list[bytes] = []
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = _tls(knows_clients=knows_clients) if tls else None
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._closing = False
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._tls is not None:
                connection = _wrapped(connection, self._tls)
            request = _read(connection)
            if not request:
                connection.close()
                if self._closing:
                    return
                continue
            self.requests.append(request)
            self._perform(connection, self._script[min(len(self.requests), len(self._script)) - 1])

    def _perform(self, connection: socket.socket, act: bytes | Act) -> None:
        if act is Act.HANG:
            self._open.append(connection)
            return
        if act is Act.GARBLE:
            os.write(connection.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        if act is Act.DRIP:
            self._drip(connection)
        if isinstance(act, bytes):
            connection.sendall(act)
        connection.close()

    def _drip(self, connection: socket.socket) -> None:
        with suppress(OSError):  # until the client has had enough
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            connection.settimeout(0.05)
            while not self._closing:
                connection.sendall(b" ")
                with suppress(TimeoutError):
                    if not connection.recv(1):
                        return

    def close(self) -> None:
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        for connection in (*self._open, self._listener):
            connection.close()


def _tls(*, knows_clients: bool) -> ssl.SSLContext:
    """A certificate for this machine that nobody has signed; its key opens nothing else.

    Where it *knows_clients*, it serves those alone who show that same certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    if knows_clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(CERTIFICATE)
    return context


def _wrapped(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    try:
        return context.wrap_socket(connection, server_side=True)
    except OSError:  # the client trusts nobody, or is close()
        return connection


def _read(connection: socket.socket) -> bytes:
    """One request with its body."""
    request = b""
    while b"\r\n\r\n" not in request or not _is_whole(request):
        try:
            received = connection.recv(65_536)
        except OSError:
            break
        if not received:
            break
        request += received
    return request


def _is_whole(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return not lengths or len(body) >= int(lengths[0])


@contextmanager
def misbehaving(*script: bytes | Act, tls: bool = False, knows_clients: bool = False) -> Iterator[MisbehavingServer]:
    """Such a server, closed at the end."""
    server = MisbehavingServer(script, tls=tls, knows_clients=knows_clients)
    try:
        yield server
    finally:
        server.close()
