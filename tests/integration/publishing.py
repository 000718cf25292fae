"""Does one thing to a warehouse and dies at a step of it, as by a power cut: what is killed here is ours, and real.

``python -m tests.integration.publishing STEP ROOT publish|discard|take JOB [DATASET NUMBER]``: killed at the STEP-th
thing that it asks of the file system; prints what was answered if it comes to the end.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from adapters.narrative.spark_warehouse import Warehouse
from control_plane.work import Publication

#: What Python tells before it asks the file system for it.
ASKED = ("open", "os.", "shutil.")


def die_at(step: int) -> Callable[[str, object], None]:
    """An audit hook."""
    asked = 0

    def count(event: str, _arguments: object) -> None:
        nonlocal asked
        if event.startswith(ASKED):
            asked += 1
            if asked == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return count


def main(step: str, root: str, action: str, job: str, *rest: str) -> None:
    warehouse = Warehouse(Path(root))
    job_id = UUID(job)
    warehouse.unpublished()  # whatever is still to be imported is imported
    sys.addaudithook(die_at(int(step)))
    told: object = None
    if action == "publish":
        told = warehouse.publish(job_id, Publication(int(rest[0]), int(rest[1])))
    elif action == "discard":
        told = warehouse.discard(job_id)
    elif action == "take":
        told = warehouse.take_answer(job_id)
    print(told, flush=True)  # noqa: T201  its answer


if __name__ == "__main__":
    main(*sys.argv[1:])
