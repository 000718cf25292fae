"""What is told while the jobs of a cluster start: on a small machine that takes a minute, in which no state changes."""

import time
from collections.abc import Callable

from control_plane.jobs import ExecutionCluster

WHY = {
    ExecutionCluster.SHARED: "each is given a session of its own",
    ExecutionCluster.DEDICATED: "each is an application of its own, of two Javas, which takes a dozen seconds to start",
}


class Starting:
    """So many jobs on one cluster; *say* is given a line whenever it is told how many of them compute."""

    def __init__(
        self,
        cluster: ExecutionCluster,
        jobs: int,
        say: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._say = say
        self._monotonic = monotonic
        self._began_at = monotonic()
        say(f"Starting {jobs} long jobs on the {cluster} cluster: {WHY[cluster]} …")

    def tell(self, computing: int) -> None:
        """How far it is."""
        seconds = f"{self._monotonic() - self._began_at:.0f} s"
        if computing < self._jobs:
            self._say(f"{computing} of {self._jobs} compute after {seconds}; the others are starting …")
        else:
            self._say(f"All {self._jobs} compute, after {seconds}.")
