"""While jobs of a cluster start, the demo says so again and again."""

import pytest

from control_plane.jobs import ExecutionCluster
from workers.demo.starting import Starting


@pytest.mark.parametrize("cluster", ExecutionCluster)
def test_it_is_said_how_many_compute_and_after_how_long(cluster: ExecutionCluster) -> None:
    said: list[str] = []
    now = 100.0
    starting = Starting(cluster, 3, said.append, lambda: now)

    now = 110.0
    starting.tell(1)
    now = 147.4
    starting.tell(3)

    first, *others = said
    assert first.startswith(f"Starting 3 long jobs on the {cluster} cluster: each is ")
    assert others == ["1 of 3 compute after 10 s; the others are starting …", "All 3 compute, after 47 s."]
