"""What is remembered of closed works, and for how long."""

from uuid import UUID, uuid4

from adapters.base import ClosedWork, Listing, Run, RunStatus
from adapters.snowflake.closed import ClosedWorks
from adapters.snowflake.history import Entry, Reading
from adapters.snowflake.line import Identity
from control_plane.jobs import Handle
from control_plane.planes import Owner

HERE = Identity("AWS_EU.ONE", "CANCELLER")
ELSEWHERE = Identity("AWS_EU.TWO", "CANCELLER")
QUERY = "01b2c3d4-0000-1234-0000-000012345678"


def noted(works: ClosedWorks, status: RunStatus = RunStatus.ACTIVE, job_id: UUID | None = None) -> ClosedWork:
    """A closed work with one run, of which a complete reading was noted."""
    work = ClosedWork(job_id or uuid4(), "tag")
    run = Run(work.job_id, "tag", Handle("snowflake", HERE.incarnation, QUERY), status)
    reading = Reading((Entry(QUERY, "tag", Owner(), 1, None),))
    works.note(work, reading, Listing((run,), complete=True, incarnation=HERE.incarnation), HERE)
    return work


def test_what_was_read_in_one_account_says_nothing_in_another() -> None:
    works = ClosedWorks()
    work = noted(works)

    assert works.reading_of(work, HERE) is not None
    assert works.reading_of(work, ELSEWHERE) is None


def test_what_has_ended_is_remembered_no_more() -> None:
    works = ClosedWorks()
    work = noted(works)

    noted(works, RunStatus.STOPPED, work.job_id)

    assert works.reading_of(work, HERE) is None


def test_who_was_not_seen_for_longest_is_forgotten_first() -> None:
    works = ClosedWorks(most=2)
    first, second = noted(works), noted(works)
    noted(works, job_id=first.job_id)

    third = noted(works)

    assert [works.reading_of(work, HERE) is not None for work in (first, second, third)] == [True, False, True]
