"""What Prometheus reads: how many cancellations wait on the company's planes, and what this process has settled."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from litestar import Request, Router
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from control_plane.api.auth import caller_of
from control_plane.api.desk import Desk, GivenDesk
from control_plane.api.operations import Text, operation
from control_plane.planes import DataPlane
from control_plane.presence import Reason
from control_plane.tokens import Caller, Permission

_NO_REASON = "none"  #: no round has ended yet that gave one


@operation("GET", "/metrics", "metrics", Permission.DATA_PLANES_READ, may_answer=frozenset(), media_type="text/plain")
async def metrics(request: Request[Any, Any, Any], desk: GivenDesk) -> str:
    """The cancellations of your company's own data planes for Prometheus, by plane: waiting, stuck, settled."""
    return Text(await desk.call(_look, desk, caller_of(request)))


def _look(desk: Desk, caller: Caller) -> str:
    planes = [plane for plane in desk.intake(caller).planes() if plane.company_id == caller.company_id]
    own = {plane.data_plane_id for plane in planes}
    settled = {key: count for key, count in desk.tally.counts().items() if key[0] in own}
    told = CollectorRegistry(auto_describe=False)
    told.register(_Told(planes, desk.presences.reasons(sorted(own)), settled))
    return generate_latest(told).decode()


class _Told(Collector):
    def __init__(
        self, planes: Sequence[DataPlane], reasons: Sequence[Reason], settled: Mapping[tuple[UUID, str], int]
    ) -> None:
        self._planes = planes
        self._reasons = reasons
        self._settled = settled

    def collect(self) -> Iterator[Metric]:
        """What the database and this process know now."""
        stuck: defaultdict[UUID, int] = defaultdict(int)
        waiting = GaugeMetricFamily(
            "countermand_cancellations_waiting",
            "Cancellations that are not settled, by the reason that the latest round gave.",
            labels=["plane", "reason"],
        )
        for reason in self._reasons:
            stuck[reason.data_plane_id] += reason.stuck
            waiting.add_metric([str(reason.data_plane_id), reason.waiting or _NO_REASON], reason.count)
        settled = CounterMetricFamily(
            "countermand_cancellations_settled",
            "Cancellations that were settled through this server process since its start; others count their own.",
            labels=["plane", "outcome"],
        )
        for (plane, outcome), count in sorted(self._settled.items()):
            settled.add_metric([str(plane), outcome], count)
        yield from (waiting, settled, *self._by_plane(stuck))

    def _by_plane(self, stuck: Mapping[UUID, int]) -> Iterator[Metric]:
        waits_long = GaugeMetricFamily(
            "countermand_cancellations_stuck",
            "Those of them that wait for longer than their plane's stuck_after_seconds.",
            labels=["plane"],
        )
        silent = GaugeMetricFamily(
            "countermand_plane_silent",
            "1 where no process of the plane was heard of for half a minute.",
            labels=["plane"],
        )
        for plane in self._planes:
            waits_long.add_metric([str(plane.data_plane_id)], stuck[plane.data_plane_id])
            silent.add_metric([str(plane.data_plane_id)], int(plane.silent))
        yield from (waits_long, silent)


ROUTES = Router("/", route_handlers=[metrics], tags=["Health"])
