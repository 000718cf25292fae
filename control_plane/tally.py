"""What one process has settled since its start, by plane and outcome; for its metrics alone."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from uuid import UUID

from control_plane.lifecycle import Trigger, destination

COMPLETED = destination(Trigger.COMPLETE)  #: the cancellation came too late: the job was committed before


class Tally:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[UUID, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, settled: Iterable[tuple[UUID, str]]) -> None:
        """Each is a plane and the outcome of a cancellation on it."""
        with self._lock:
            self._counts.update(settled)

    def counts(self) -> Mapping[tuple[UUID, str], int]:
        """As it stands now."""
        with self._lock:
            return dict(self._counts)
