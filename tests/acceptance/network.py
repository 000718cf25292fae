"""Machines that see no more of each other than a network lets them: where processes of a test run.

Each is a network namespace of its own behind a wire of its own, where this machine lets us make some (iproute2, and
the right to). Elsewhere each is loopback addresses of its own, and nothing but manners keeps the others out.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

#: A wire has four addresses of this range, which is for tests of networks (RFC 2544).
RANGE = (198, 18)
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


class Machine(NamedTuple):
    """Where processes run."""

    prefix: tuple[str, ...]  #: what their commands begin with
    address: str  #: its own
    outside: str  #: the other end of its only wire, which is the test's: there it finds whatever the test lets it find

    def connect(self, host: str, port: int) -> str:
        """Try to connect from here: what stood in the way, or nothing."""
        command = [*self.prefix, sys.executable, "-c", CONNECT, host, str(port)]
        tried = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        return tried.stderr.strip().rpartition("\n")[2]


HERE = Machine((), "127.0.0.1", "127.0.0.1")


class Network:
    """Makes machines of one kind."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._loopbacks = (f"127.{random.randrange(1, 255)}.{number}" for number in range(1, 255))  # noqa: S311
        self.is_real = self._can_make_namespaces()

    def __str__(self) -> str:
        return "network namespaces" if self.is_real else "loopback addresses"

    def machine(self) -> Machine:
        """A new one."""
        if self.is_real:
            return self._namespace()
        some = next(self._loopbacks)
        return Machine((), f"{some}.2", f"{some}.1")

    def _can_make_namespaces(self) -> bool:
        try:
            self._namespace()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def _namespace(self) -> Machine:
        """One whose only route is its wire to us. We pass nothing on, so no machine reaches another."""
        number = random.randrange(2**14)  # noqa: S311  # of 64 K addresses; a number that is taken has a wire already
        name = wire = f"ctm{number}"
        second, third = divmod(4 * number, 256)
        ours, its = (f"{RANGE[0]}.{RANGE[1]}.{second}.{third + last}" for last in (1, 2))
        _ip("link", "add", wire, "type", "veth", "peer", "name", f"{wire}i")
        self._names.append(name)
        _ip("netns", "add", name)
        _ip("link", "set", f"{wire}i", "netns", name)
        _ip("address", "add", f"{ours}/30", "dev", wire)
        _ip("link", "set", wire, "up")
        for command in (("address", "add", f"{its}/30", "dev", f"{wire}i"), ("link", "set", f"{wire}i", "up")):
            _ip("-netns", name, *command)
        _ip("-netns", name, "link", "set", "lo", "up")
        machine = Machine(("ip", "netns", "exec", name), its, ours)
        subprocess.run([*machine.prefix, "true"], check=True, capture_output=True)
        return machine

    def close(self) -> None:
        """Remove what was made."""
        for name in self._names:
            for command in (("link", "delete", name), ("netns", "delete", name)):
                with suppress(OSError, subprocess.CalledProcessError):
                    _ip(*command)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)  # noqa: S607


@contextmanager
def network() -> Iterator[Network]:
    """A network, removed at the end."""
    made = Network()
    try:
        yield made
    finally:
        made.close()
