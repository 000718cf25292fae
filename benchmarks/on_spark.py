"""Cancelling on Spark, on real clusters: how soon nothing runs any more, beside a bare interrupt and a bare kill.

On one cluster the same query is stopped in turn by a bare client, and by us: an executor and a worker as processes of
their own, over Postgres, whichever of the two stops it first. Both times it is this process that looks whether it is
over, every 10 ms and in the same way. Nothing else runs. On Connect the query keeps one core busy, which leaves the
second to whoever stops it; a dedicated one only sleeps.

Clusters, our processes and the bare client run in ``.venv``, which has Spark, and which ``make bench`` makes as well;
the environment for benchmarks would grow by half a gigabyte. Each round has a cluster of its own, so that none is there
while something else is measured.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.plane import EMPTY, Plane, make_empty, process
from benchmarks.spark_clusters import PYTHON, Cluster, Stop, connect, standalone
from benchmarks.worker_process import wait_until_listening
from control_plane.intake import NewPlane
from control_plane.jobs import ExecutionCluster
from control_plane.planes import Platform

PLANE = "spark"
_WARM_UP = 3  #: of Connect alone: each application is a Java that has just started


class SparkCancel:
    """From the request until no task is active on a Connect server; and from a bare Interrupt, by tag.

    The server's web UI tells what is active. Nothing is stopped before a task of it is: a bare Interrupt could miss.
    """

    name = "spark"
    units: ClassVar[Mapping[str, str]] = {
        "spark_p50": "ms",
        "spark_bare_p50": "ms",
        "spark_overhead": "ms",
        "spark_cancelled_p50": "ms",
    }

    def __init__(self, effort: Effort) -> None:
        self._count = effort.spark_cancels

    def prepare(self, ground: Ground) -> None:
        """A database with nothing in it."""
        make_empty(ground)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """The medians, and by how much ours is longer."""
        with connect(ground) as cluster, plane_on(ground, ExecutionCluster.SHARED, cluster.settings) as plane:
            ours, bare = in_turn(cluster, plane, self._count + _WARM_UP)
        return figures(self.name, ours[_WARM_UP:], bare[_WARM_UP:], lambda ours, bare: ours - bare)


class SparkDedicatedCancel:
    """From the request until an application's driver is ``KILLED`` and no process of it is left; and from a bare kill.

    All have the same properties and the same kind of statement, and are stopped once they run a task. They are few:
    each takes ten seconds of both cores to start, so that only one is there at a time.
    """

    name = "spark_dedicated"
    units: ClassVar[Mapping[str, str]] = {
        "spark_dedicated_p50": "ms",
        "spark_dedicated_bare_p50": "ms",
        "spark_dedicated_overhead": "times",
        "spark_dedicated_cancelled_p50": "ms",
    }

    def __init__(self, effort: Effort) -> None:
        self._count = effort.spark_dedicated_cancels

    def prepare(self, ground: Ground) -> None:
        """A database with nothing in it."""
        make_empty(ground)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """The medians, and how many times as long ours takes."""
        with standalone(ground) as cluster, plane_on(ground, ExecutionCluster.DEDICATED, cluster.settings) as plane:
            ours, bare = in_turn(cluster, plane, self._count)
        return figures(self.name, ours, bare, lambda ours, bare: ours / bare)


def in_turn(cluster: Cluster, plane: Plane, count: int) -> tuple[list[Stop], list[Stop]]:
    """So many stops in turn; answers ours, and the bare ones."""
    ours, bare = [], []
    for _ in range(count):
        bare.append(cluster.stop_bare())
        ours.append(cluster.cancel(plane))
    return ours, bare


def figures(
    name: str, ours: list[Stop], bare: list[Stop], compared: Callable[[float, float], float]
) -> Mapping[str, float]:
    """What a round comes to."""
    p50 = statistics.median(stop.nothing_runs for stop in ours)
    bare_p50 = statistics.median(stop.nothing_runs for stop in bare)
    return {
        f"{name}_p50": p50,
        f"{name}_bare_p50": bare_p50,
        f"{name}_overhead": compared(p50, bare_p50),
        f"{name}_cancelled_p50": statistics.median(stop.cancelled for stop in ours),
    }


@contextmanager
def plane_on(ground: Ground, cluster: ExecutionCluster, settings: Mapping[str, str]) -> Iterator[Plane]:
    """A plane with one cluster, which an executor and a worker attend to."""
    new = NewPlane(PLANE, Platform.NARRATIVE, execution_clusters=[cluster])
    with ground.lend(EMPTY) as database, Plane.made(ground, database, new) as plane:
        told = {f"SPARK__{name}": value for name, value in settings.items()}
        told["DATABASE_URL"] = ground.server.url(database)
        environment = os.environ | {f"COUNTERMAND_{name}": value for name, value in told.items()}
        data = ground.file("executor")
        executor = ("executor", "--data-plane", PLANE, "--data-folder", str(data))
        with (
            process(ground, environment, *executor, python=PYTHON),
            process(ground, environment, "worker", python=PYTHON),
        ):
            wait_until_listening(ground, database)
            yield plane
