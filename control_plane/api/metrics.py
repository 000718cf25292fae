"""What Prometheus reads: how many cancellations wait on the company's planes, and what this process has settled.

Its text format, version 0.0.4, is four lines of code; a client library would count what only the database knows.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from litestar import Request, Router

from control_plane.api.auth import caller_of
from control_plane.api.desk import Desk, GivenDesk
from control_plane.api.operations import Text, operation
from control_plane.planes import DataPlane
from control_plane.presence import Reason
from control_plane.tokens import Caller, Permission

_NO_REASON = "none"  #: no round has ended yet that gave one

Sample = tuple[Mapping[str, str], int]


@operation("GET", "/metrics", "metrics", Permission.DATA_PLANES_READ, may_answer=frozenset(), media_type="text/plain")
async def metrics(request: Request[Any, Any, Any], desk: GivenDesk) -> str:
    """The cancellations of your company's own data planes for Prometheus, by plane: waiting, stuck, settled."""
    return Text(await desk.call(_look, desk, caller_of(request)))


def _look(desk: Desk, caller: Caller) -> str:
    planes = [plane for plane in desk.intake(caller).planes() if plane.company_id == caller.company_id]
    own = {plane.data_plane_id for plane in planes}
    settled = {key: count for key, count in desk.tally.counts().items() if key[0] in own}
    return "".join(_lines(planes, desk.presences.reasons(sorted(own)), settled))


def _lines(
    planes: Sequence[DataPlane], reasons: Sequence[Reason], settled: Mapping[tuple[UUID, str], int]
) -> Iterator[str]:
    stuck: defaultdict[UUID, int] = defaultdict(int)
    for reason in reasons:
        stuck[reason.data_plane_id] += reason.stuck
    yield from _family(
        "countermand_cancellations_waiting",
        "gauge",
        "Cancellations that are not settled, by the reason that the latest round gave.",
        [
            ({"plane": str(reason.data_plane_id), "reason": reason.waiting or _NO_REASON}, reason.count)
            for reason in reasons
        ],
    )
    yield from _family(
        "countermand_cancellations_stuck",
        "gauge",
        "Those of them that wait for longer than their plane's stuck_after_seconds.",
        [({"plane": str(plane.data_plane_id)}, stuck[plane.data_plane_id]) for plane in planes],
    )
    yield from _family(
        "countermand_cancellations_settled_total",
        "counter",
        "Cancellations that were settled through this server process since its start; other processes count their own.",
        [({"plane": str(plane), "outcome": outcome}, count) for (plane, outcome), count in sorted(settled.items())],
    )
    yield from _family(
        "countermand_plane_silent",
        "gauge",
        "1 where no process of the plane was heard of for half a minute.",
        [({"plane": str(plane.data_plane_id)}, int(plane.silent)) for plane in planes],
    )


def _family(name: str, kind: str, says: str, samples: Sequence[Sample]) -> Iterator[str]:
    """Labels are ids and words of ours: none needs escaping."""
    yield f"# HELP {name} {says}\n# TYPE {name} {kind}\n"
    for labels, value in samples:
        named = ",".join(f'{label}="{text}"' for label, text in labels.items())
        yield f"{name}{{{named}}} {value}\n"


ROUTES = Router("/", route_handlers=[metrics], tags=["Health"])
