"""Does one thing to a warehouse and dies at a step of it, as by a power cut: what is killed here is ours, and real.

``python -m tests.integration.publishing STEP ROOT publish|discard|take JOB [DATASET NUMBER]``: killed at the STEP-th
thing that it asks of the file system; prints what was answered if it comes to the end.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from adapters.narrative.spark_warehouse import Warehouse
from control_plane.work import Publication

#: Functions that ask something of the file system, each in C.
ASKING = frozenset(
    {"close", "flush", "fsync", "mkdir", "open", "remove", "replace", "rmdir", "scandir", "unlink", "write"}
)


def die_at(step: int) -> Callable[[FrameType, str, Any], None]:
    """A profiler that ends the process before its STEP-th call of these."""
    asked = 0

    def count(_frame: FrameType, event: str, called: Any) -> None:
        nonlocal asked
        if event == "c_call" and called.__name__ in ASKING:
            asked += 1
            if asked == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return count


def main(step: str, root: str, action: str, job: str, *rest: str) -> None:
    warehouse = Warehouse(Path(root))
    job_id = UUID(job)
    warehouse.unpublished()  # whatever is still to be imported is imported
    sys.setprofile(die_at(int(step)))
    told: object = None
    if action == "publish":
        told = warehouse.publish(job_id, Publication(int(rest[0]), int(rest[1])))
    elif action == "discard":
        told = warehouse.discard(job_id)
    elif action == "take":
        told = warehouse.take_answer(job_id)
    sys.setprofile(None)
    print(told, flush=True)  # noqa: T201  its answer


if __name__ == "__main__":
    main(*sys.argv[1:])
