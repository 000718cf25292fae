"""What tests of processes without a database look at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import select

from control_plane import schema
from tests.acceptance.site import Site, Started
from tests.doubles.tcp_proxy import TcpProxy, proxied

#: Nothing ticks: what happens soon was told of by a long poll.
WITHOUT_TICKS = {"COUNTERMAND_WORKER__POLL_SECONDS": "3600"}
SHORT = {"COUNTERMAND_WORKER__LEASE_SECONDS": "1.5", "COUNTERMAND_WORKER__CALL_TIMEOUT_SECONDS": "1"}
LONG = {"COUNTERMAND_WORKER__LEASE_SECONDS": "3600"}


@contextmanager
def before_the_control_plane(site: Site) -> Iterator[TcpProxy]:
    """A proxy to the site's own server."""
    parts = urlsplit(site.api_url)
    with proxied((parts.hostname or "", parts.port or 0)) as proxy:
        yield proxy


def held(site: Site) -> set[UUID]:
    """The cancellations that are leased, or were until the lease ran out."""
    table = schema.cancellations
    leased = select(table.c.job_id).where(table.c.lease.is_not(None), table.c.settled_at.is_(None))
    with site.store.engine.connect() as connection:
        return set(connection.execute(leased).scalars())


def told(process: Started, *events: str) -> list[str]:
    """Those of these events that the process has logged, in order."""
    lines = [(line["timestamp"], line["event"]) for name in events for line in process.events(name)]
    return [event for _, event in sorted(lines)]


def outages(process: Started) -> list[str]:
    """What it says of the control plane's absences."""
    return told(process, "control_plane_lost", "control_plane_back")


def settled_by(workers: Sequence[Started]) -> list[UUID]:
    """The cancellations that the workers say they settled."""
    return [UUID(line["job"]) for worker in workers for line in worker.events("cancellation_settled")]


def listens_at(process: Started) -> list[str]:
    """The addresses on the network at which the process listens, as Linux writes them."""
    root = Path(f"/proc/{process.process.pid}")
    opened = {str(descriptor.readlink()) for descriptor in (root / "fd").iterdir()}
    lines = [line.split() for kind in ("tcp", "tcp6") for line in (root / "net" / kind).read_text().splitlines()]
    return [line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in opened]
