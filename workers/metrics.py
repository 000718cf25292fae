"""What a scraper is told by a process of a plane: counts since it started, and what it holds now, by plane.

What waits in the control plane, held by nobody, is told by the control plane's own metrics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, start_http_server

from control_plane.errors import Refused

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

SETTLED = Counter(
    "countermand_worker_settled",
    "Cancellations that this worker settled, by the outcome in the receipt; without one: completed.",
    ["plane", "outcome"],
    registry=REGISTRY,
)
POSTPONED = Counter(
    "countermand_worker_postponed",
    "Rounds that this worker ended without evidence, by the reason to wait.",
    ["plane", "reason"],
    registry=REGISTRY,
)
STUCK = Counter(
    "countermand_worker_stuck",
    "Cancellations that were found to wait for longer than the plane's stuck_after_seconds.",
    ["plane"],
    registry=REGISTRY,
)
WAITING = Gauge(
    "countermand_worker_waiting", "Cancellations that this worker holds and works now.", ["plane"], registry=REGISTRY
)
JOBS_HELD = Gauge("countermand_executor_jobs", "Jobs that this executor holds now.", ["plane"], registry=REGISTRY)


def count_now(gauge: Gauge, plane: object, count: Callable[[], int]) -> None:
    """Let the gauge tell what *count* answers when it is scraped."""
    gauge.labels(str(plane)).set_function(count)


@contextmanager
def served(listen: str | None) -> Iterator[None]:
    """Metrics at HOST:PORT, every path, while the context lasts; nowhere for None. Refused where nothing can listen."""
    if listen is None:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry=REGISTRY)
    except OSError as error:
        message = f"metrics_listen: nothing can listen at {listen}: {error.strerror}; choose another address"
        raise Refused(message, field="metrics_listen") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
