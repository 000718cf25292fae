"""Who works on a plane: what processes say of themselves, for how long it is kept, and who is told."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select

from control_plane import schema
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import JobType, Waiting
from control_plane.planes import SILENT_AFTER_SECONDS, DataPlane, Platform
from control_plane.presence import Beat, Presences
from control_plane.scope import OPERATOR, Scope
from control_plane.statements.presence import MOST_WORKERS
from control_plane.wire import Workers
from control_plane.work import Presence
from tests.integration.given import INPUTS, SUBMITTER, Given, at_once

DAY = 86_400.0
CANCELLER = Presence("w1", "canceller", "0.1.0", ["narrative"], 3)
EXECUTOR = Presence("job-executor-1", "executor", "0.1.0", ["duckdb"], 1)
SHARER = 2


@pytest.fixture
def presences(given: Given) -> Presences:
    return Presences(given.store)


def workers(given: Given, plane: DataPlane | None = None, scope: Scope = OPERATOR) -> Workers:
    where = (plane or given.plane).data_plane_id
    return Presences(given.store).of_plane(given.intake.within(scope).plane(where), scope)


def names(given: Given, plane: DataPlane | None = None) -> list[str]:
    return [record.worker for record in workers(given, plane).records]


def kept(given: Given) -> int:
    with given.store.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(schema.workers)).scalar_one()


def beat(given: Given, presence: Presence | None = CANCELLER, plane: DataPlane | None = None) -> None:
    given.dispatch.heartbeat([(plane or given.plane).data_plane_id], presence)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_worker_is_listed_as_it_last_described_itself(given: Given) -> None:
    began_at = given.clock.now
    beat(given)
    later = given.clock.advance(10)

    beat(given, Presence("w1", "canceller", "0.2.0", ["narrative", "snowflake"], 0))

    [record] = workers(given).records
    assert (record.worker, record.kind, record.version) == ("w1", "canceller", "0.2.0")
    assert (record.engines, record.in_flight, record.silent) == (["narrative", "snowflake"], 0, False)
    assert (record.first_seen_at, record.last_seen_at) == (began_at, later)


def test_a_heartbeat_attends_its_plane_whether_or_not_it_says_whose_it_is(given: Given) -> None:
    other = given.new_plane()
    given.clock.advance(SILENT_AFTER_SECONDS)

    beat(given)
    beat(given, None, other)

    planes = [given.intake.plane(plane.data_plane_id) for plane in (given.plane, other)]
    assert [(plane.last_heartbeat_at, plane.silent) for plane in planes] == [(given.clock.now, False)] * 2
    assert (names(given), names(given, other)) == (["w1"], [])


def test_one_process_stands_on_each_of_its_planes(given: Given) -> None:
    other = given.new_plane()

    noted = given.dispatch.heartbeat([given.plane.data_plane_id, other.data_plane_id, uuid4()], CANCELLER)

    assert noted == sorted([given.plane.data_plane_id, other.data_plane_id])
    assert names(given) == names(given, other) == ["w1"]


def test_a_batch_may_have_a_process_twice_and_the_latter_counts(given: Given, presences: Presences) -> None:
    plane = given.plane.data_plane_id
    later = Presence("w1", "canceller", "0.1.0", ["narrative"], 9)

    found = presences.note([Beat(plane, CANCELLER), Beat(plane, EXECUTOR), Beat(plane), Beat(plane, later)])

    assert found == {plane}
    assert sorted((record.worker, record.in_flight) for record in workers(given).records) == [
        ("job-executor-1", 1),
        ("w1", 9),
    ]


def test_a_batch_of_nothing_notes_nothing(presences: Presences) -> None:
    assert presences.note([]) == set()


def test_who_was_last_heard_of_comes_first_and_the_silent_are_called_so(given: Given) -> None:
    beat(given)
    given.clock.advance(SILENT_AFTER_SECONDS)
    beat(given, EXECUTOR)

    listed = workers(given)

    assert [(record.worker, record.silent) for record in listed.records] == [("job-executor-1", False), ("w1", True)]
    assert not listed.silent
    given.clock.advance(SILENT_AFTER_SECONDS)
    assert workers(given).silent


def test_who_was_not_heard_of_for_a_day_is_listed_no_more_and_removed_with_the_next_that_comes(given: Given) -> None:
    beat(given)
    given.clock.advance(DAY - 1)
    assert names(given) == ["w1"]
    given.clock.advance(1)
    assert (names(given), kept(given)) == ([], 1)

    beat(given, EXECUTOR)

    assert (names(given), kept(given)) == (["job-executor-1"], 1)


def test_who_comes_back_after_a_day_was_first_seen_when_it_came_back(given: Given) -> None:
    beat(given)
    came_back_at = given.clock.advance(DAY)

    beat(given)

    assert [record.first_seen_at for record in workers(given).records] == [came_back_at]


def test_a_flood_of_names_leaves_a_thousand_and_does_not_reach_another_plane(
    given: Given, presences: Presences
) -> None:
    other = given.new_plane()
    beat(given, plane=other)
    for flood in range(3):
        given.clock.advance(1)
        named = [Presence(f"flood-{flood}-{number:03}", "canceller", "", [], 0) for number in range(500)]
        presences.note([Beat(given.plane.data_plane_id, presence) for presence in named])

    listed = names(given)

    assert len(listed) == kept(given) - 1 == MOST_WORKERS
    assert {name.rpartition("-")[0] for name in listed} == {"flood-1", "flood-2"}
    assert names(given, other) == ["w1"]


def test_batches_at_once_that_have_the_same_processes_are_all_noted(given: Given, presences: Presences) -> None:
    planes = [given.new_plane().data_plane_id for _ in range(5)]
    beats = [Beat(plane, presence) for plane in planes for presence in (CANCELLER, EXECUTOR)]

    found = at_once(*(lambda batch=batch: presences.note(batch) for batch in (beats, beats[::-1]) * 4))

    assert found == [set(planes)] * 8
    assert kept(given) == 10


# --- what waits ------------------------------------------------------------------------------------------------------


def test_what_waits_are_the_planes_unsettled_cancellations_oldest_first(given: Given) -> None:
    given.requested(plane=given.new_plane())
    given.cancelled()
    given.running()
    asked = []
    for _ in range(3):
        asked.append(given.requested().job_id)
        given.clock.advance(1)
    given.claim(1)  # a claimed one is not settled

    waiting = workers(given).waiting

    assert (waiting.total, waiting.job_ids) == (3, asked)


def test_of_those_that_wait_the_oldest_hundred_are_named(given: Given) -> None:
    asked = []
    for _ in range(102):
        asked.append(given.requested().job_id)
        given.clock.advance(1)

    waiting = workers(given).waiting

    assert (waiting.total, waiting.job_ids) == (102, asked[:100])


def test_a_company_that_shares_a_plane_sees_its_own_that_wait_and_nobodys_processes(given: Given) -> None:
    plane = given.intake.create_plane(NewPlane("shared", Platform.NARRATIVE, collaborators=[SHARER]))
    beat(given, plane=plane)
    given.requested(plane=plane)
    theirs = given.intake.within(Scope(SHARER)).submit(
        NewJob(plane.data_plane_id, JobType.MATERIALIZE_VIEW, INPUTS[JobType.MATERIALIZE_VIEW]), SUBMITTER
    )
    given.start(plane=plane)
    given.request(theirs.job_id)

    listed = workers(given, plane, Scope(SHARER))

    assert (listed.records, listed.silent) == ([], False)
    assert (listed.waiting.total, listed.waiting.job_ids) == (1, [theirs.job_id])
    assert (len(workers(given, plane, Scope(1)).records), workers(given, plane, Scope(1)).waiting.total) == (1, 2)


# --- why it waits ----------------------------------------------------------------------------------------------------


def why(given: Given, job_id: UUID) -> tuple[Waiting | None, str | None]:
    told = given.intake.cancellation(job_id).cancellation
    return told.waiting, told.waiting_detail


def test_a_cancellation_on_a_silent_plane_says_since_when_no_worker_was_heard_of(given: Given) -> None:
    job_id = given.requested().job_id
    beat(given)

    given.clock.advance(SILENT_AFTER_SECONDS - 0.001)
    before = why(given, job_id)
    given.clock.advance(0.001)
    after = why(given, job_id)

    assert before == (None, None)
    assert after == (
        Waiting.PLANE_SILENT,
        "no worker of the data plane has been heard of since 2026-03-01T12:00:00Z",
    )
    [row] = given.rows_of("cancellations", job_id)
    assert row["waiting"] is None
    beat(given)
    assert why(given, job_id) == (None, None)


def test_a_plane_on_which_nobody_ever_worked_is_called_so(given: Given) -> None:
    job_id = given.requested().job_id
    given.clock.advance(SILENT_AFTER_SECONDS)

    assert why(given, job_id) == (Waiting.PLANE_SILENT, "no worker of the data plane has ever been heard of")


def test_an_executor_that_lives_does_not_hide_that_its_planes_canceller_is_silent(given: Given) -> None:
    job_id = given.requested().job_id
    beat(given)
    given.clock.advance(SILENT_AFTER_SECONDS)
    beat(given, EXECUTOR)

    waiting, detail = why(given, job_id)

    assert waiting is Waiting.PLANE_SILENT
    assert detail is not None
    assert detail.endswith("since 2026-03-01T12:00:00Z")
    assert not workers(given).silent


def test_one_canceller_that_lives_is_enough(given: Given) -> None:
    job_id = given.requested().job_id
    beat(given)
    given.clock.advance(SILENT_AFTER_SECONDS)

    beat(given, Presence("w2", "canceller", "0.1.0", ["narrative"], 0))

    assert why(given, job_id) == (None, None)


def test_what_the_last_round_said_is_not_lost_by_silence(given: Given) -> None:
    held = given.leased()
    beat(given)
    given.dispatch.postpone([given.postponement(held, detail="the engine says: running")])
    given.clock.advance(SILENT_AFTER_SECONDS)

    waiting, detail = why(given, held.work.job_id)

    assert waiting is Waiting.PLANE_SILENT
    assert detail is not None
    assert detail.endswith("; before that: the engine says: running")


def test_a_settled_cancellation_waits_for_nobody(given: Given) -> None:
    job_id = given.cancelled()
    given.clock.advance(SILENT_AFTER_SECONDS)

    assert why(given, job_id) == (None, None)
