"""How much a canceller takes on, and how long it waits for what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from control_plane.jobs import Rung


@dataclass(frozen=True)
class Limits:
    """How much a canceller takes on, and how long it waits for what."""

    batch_size: int = 400
    batches_in_flight: int = 3  #: a plane
    max_in_flight: int | None = None  #: cancellations of a plane; by default as many as the batches hold
    stops_per_second: float | None = None  #: of runs, at most, on a plane; half of them may repeat earlier ones
    lease_seconds: float = 30.0
    drain_seconds: float = 20.0
    round_seconds: float = 3.0  #: how long a round looks without progress before it postpones
    look_seconds: float = 0.01  #: the first pauses between two looks; later ones are longer
    look_at_most_seconds: float = 0.5
    stop_again_seconds: float = 0.5  #: between two stops of one run: one may be lost, and each costs the engine
    postpone_seconds: float = 1.0  #: after the first round; doubled by each further one
    postpone_at_most_seconds: float = 60.0
    patience: Mapping[Rung, timedelta] = field(
        default_factory=lambda: {Rung.ASK: timedelta(seconds=10), Rung.INSIST: timedelta(seconds=30)}
    )
