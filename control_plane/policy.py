"""What can be cancelled where: pairs of platform and job type, declared, never guessed."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from control_plane.errors import BadInput, NotCancellable
from control_plane.jobs import JobType
from control_plane.planes import Platform

#: On Narrative not the types that delete or deliver: half of a delivery cannot be taken back.
DEFAULT: Mapping[Platform, frozenset[JobType]] = {
    Platform.NARRATIVE: frozenset(
        {
            JobType.MATERIALIZE_VIEW,
            JobType.NQL_FORECAST,
            JobType.FORECAST,
            JobType.COSTS,
            JobType.SAMPLE,
            JobType.CALCULATE_COLUMN_STATS,
            JobType.MODEL_TRAINING_RUN,
        }
    ),
    Platform.SNOWFLAKE: frozenset(JobType) - {JobType.EXTERNAL},
}


class Policy:
    """The declared pairs; *overrides* replace a platform's types, by their documented names."""

    def __init__(self, overrides: Mapping[str, Iterable[str]] | None = None) -> None:
        self._types = dict(DEFAULT)
        for platform, types in (overrides or {}).items():
            self._types[_member(Platform, platform)] = frozenset(_member(JobType, name) for name in types)

    def check(self, platform: Platform, job_type: JobType) -> None:
        """Raise NotCancellable, naming what can be cancelled there, unless jobs of this type can.

        Work started elsewhere can: whether its plane allows it was asked when it was submitted, and is again before it
        is stopped.
        """
        if job_type is not JobType.EXTERNAL and job_type not in self._types[platform]:
            supported = ", ".join(sorted(kind.value for kind in self._types[platform]))
            raise NotCancellable(
                f"type: a {job_type.value} job cannot be cancelled on {platform.value}; supported are {supported}",
                field="type",
            )


_Name = TypeVar("_Name", bound=StrEnum)


def _member(kind: type[_Name], name: str) -> _Name:
    try:
        return kind(name)
    except ValueError as error:
        allowed = ", ".join(sorted(member.value for member in kind))
        raise BadInput(f"policy: {name!r} is not known; allowed are {allowed}", field="policy") from error
