"""What of a job's drivers is shown, by all that was found out about them."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from msgspec import structs

from adapters.base import ENDED, Listing, Run, RunStatus, Trouble
from adapters.narrative.spark_standalone_fates import DRIVER_ID, Fate
from adapters.narrative.spark_standalone_line import ENGINE
from adapters.narrative.spark_standalone_scripts import State
from control_plane.jobs import Handle, Waiting
from control_plane.work import Work

MAYBE_SUBMITTED = Trouble(
    Waiting.NOT_CLOSED, "it may have been submitted, and no driver of it has begun; closing it settles that"
)
NAMELESS = Trouble(Waiting.HANDLE_UNKNOWN, "a driver of it has begun that has not told its name yet")
NO_DRIVER = Trouble(Waiting.HANDLE_UNKNOWN, "the handle is no driver's id: driver-20260131120000-0001")


class Left(NamedTuple):
    """The applications, by their tags, that may have executors still; or why that could not be seen."""

    tags: frozenset[str] = frozenset()
    silence: Trouble | None = None


def driver_named(handle: Handle | None, here: str) -> str | None:
    """The driver that the handle names, where it is one of this plane's; a tracked one bears no incarnation yet."""
    if handle is None or handle.incarnation not in ("", here) or not DRIVER_ID.fullmatch(handle.run_id):
        return None
    return handle.run_id


def drivers_of(work: Work, state: State | None, here: str) -> frozenset[str]:
    known = state.drivers if state is not None else frozenset()
    named = driver_named(work.handle, here)
    return known | ({named} if named is not None else frozenset())


def unseen(work: Work, drivers: Collection[str], here: str) -> tuple[Run, ...]:
    """The job's runs before they were looked at."""
    tag = work.tag if work.tracked is None else ""
    handles = (Handle(ENGINE, here, driver_id) for driver_id in sorted(drivers))
    return tuple(Run(work.job_id, tag, handle, RunStatus.UNKNOWN) for handle in handles)


def seen(run: Run, fates: Mapping[str, Fate], left: Left) -> Run:
    """The run as the master tells of it now, and the workers of its executors."""
    fate = fates[run.handle.run_id]
    now = structs.replace(run, status=fate.run_status, word=fate.word, ended_at=None)
    if now.status not in ENDED:
        return now
    if left.silence is not None:
        word = f"{fate.word}, and whether executors of it are left is not known"
        return structs.replace(now, status=RunStatus.UNKNOWN, word=word)
    if run.tag in left.tags:  # tasks run on after the driver's end
        return structs.replace(now, status=RunStatus.ACTIVE, word=f"{fate.word}, and its executors are ending")
    return structs.replace(now, ended_at=fate.told_at)


def own_listing(runs: tuple[Run, ...], state: State, here: str) -> Listing:
    """One submission has one driver, so that none is missing where it is known."""
    if state.nameless:
        return Listing(runs, incarnation=here, trouble=NAMELESS)
    if not (state.is_certain or runs):
        return Listing(incarnation=here, trouble=MAYBE_SUBMITTED)
    return Listing(runs, complete=True, incarnation=here)


def tracked_listing(runs: tuple[Run, ...], here: str) -> Listing:
    """That the master does not know a driver may mean that it forgot it."""
    if not runs:
        return Listing(incarnation=here, trouble=NO_DRIVER)
    if runs[0].status is RunStatus.UNKNOWN:
        detail = f"the master does not know the driver {runs[0].handle.run_id} (any more); is it its id?"
        return Listing(incarnation=here, trouble=Trouble(Waiting.HANDLE_UNKNOWN, detail))
    return Listing(runs, complete=True, incarnation=here)


def is_idle(listing: Listing) -> bool:
    """Whether nothing of it is known to run, or may run."""
    return listing.complete and all(run.status in ENDED for run in listing.runs)
