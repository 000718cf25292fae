"""Planes, submissions and listings: what users ask apart from cancellations."""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from control_plane.arguments import find_plane
from control_plane.errors import BadInput, Conflict, CountermandError, NotFound
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import ExecutionCluster, Job, JobType, work_tag
from control_plane.lifecycle import JobState
from control_plane.planes import DataPlane, Platform
from control_plane.scope import Scope
from control_plane.statements import Filters
from control_plane.wire import Page
from tests.integration.given import DATASET, EXECUTOR, INPUTS, OTHER_ASKER, SUBMITTER, VIEW_INPUT, Given, at_once

# --- planes ---------------------------------------------------------------------------------------------------------


def test_a_plane_is_kept_as_it_was_made(given: Given) -> None:
    made_at = given.clock.advance(5)
    new = NewPlane(
        "Berlin, ünïcode",
        Platform.SNOWFLAKE,
        external_id="acct-1",
        description="the one in the cellar",
        tags=["eu", "test"],
        permit_seconds=12.5,
        listing_lag_seconds=3.25,
        stuck_after_seconds=60.0,
    )

    plane = given.intake.create_plane(new)

    assert given.intake.plane(plane.data_plane_id) == plane
    assert plane == DataPlane(
        data_plane_id=plane.data_plane_id,
        company_id=1,
        display_name="Berlin, ünïcode",
        platform=Platform.SNOWFLAKE,
        status="active",
        external_id="acct-1",
        description="the one in the cellar",
        tags=["eu", "test"],
        permit_seconds=12.5,
        listing_lag_seconds=3.25,
        stuck_after_seconds=60.0,
        created_at=made_at,
        last_heartbeat_at=None,
        silent=False,
    )


def test_planes_are_listed_oldest_first(given: Given) -> None:
    made = [given.plane]
    for _ in range(3):
        given.clock.advance(1)
        made.append(given.new_plane())

    assert given.intake.planes() == made


def test_a_name_that_is_taken_is_a_conflict_and_makes_no_plane(given: Given) -> None:
    given.new_plane(display_name="Berlin")
    before = given.intake.planes()

    with pytest.raises(Conflict, match="display_name: there is a data plane 'Berlin' already") as caught:
        given.new_plane(display_name="Berlin")

    assert caught.value.field == "display_name"
    assert given.intake.planes() == before


@pytest.mark.parametrize(("platform", "seconds"), [(Platform.NARRATIVE, 0.0), (Platform.SNOWFLAKE, 10.0)])
def test_a_plane_expects_its_listings_to_lag_as_those_of_its_platform_may(
    given: Given, platform: Platform, seconds: float
) -> None:
    assert given.new_plane(platform).listing_lag_seconds == seconds
    assert given.new_plane(platform, listing_lag_seconds=3.5).listing_lag_seconds == 3.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("permit_seconds", 0.0),
        ("permit_seconds", -1.0),
        ("permit_seconds", float("nan")),
        ("permit_seconds", float("inf")),
        ("stuck_after_seconds", 0.0),
        ("stuck_after_seconds", float("nan")),
        ("listing_lag_seconds", -0.001),
        ("listing_lag_seconds", float("inf")),
        ("display_name", ""),
        ("display_name", "  "),
    ],
)
def test_what_cannot_be_right_in_a_plane_is_named_and_makes_none(given: Given, field: str, value: Any) -> None:
    before = given.intake.planes()

    with pytest.raises(BadInput, match=f"^{field}: ") as caught:
        given.new_plane(**{field: value})

    assert caught.value.field == field
    assert given.intake.planes() == before


def test_an_unknown_plane_is_named(given: Given) -> None:
    unknown = uuid4()

    with pytest.raises(NotFound, match=f"data_plane_id: there is no data plane {unknown}"):
        given.intake.plane(unknown)


# --- submitting -----------------------------------------------------------------------------------------------------


def test_a_submitted_job_is_pending_and_says_who_submitted_it(given: Given) -> None:
    pool = uuid4()
    earlier = given.pending()
    created_at = given.clock.advance(3)

    job = given.pending(
        JobType.SAMPLE,
        execution_cluster=ExecutionCluster.SHARED,
        compute_pool_id=pool,
        idempotency_key="monday",
        retry_of=earlier.job_id,
    )

    assert given.job(job.job_id) == job
    assert job == Job(
        job_id=job.job_id,
        data_plane_id=given.plane.data_plane_id,
        request_source=SUBMITTER,
        state=JobState.PENDING,
        type=JobType.SAMPLE,
        input={"dataset_id": DATASET, "rows": 10},
        executor=None,
        execution_cluster=ExecutionCluster.SHARED,
        compute_pool_id=pool,
        failures=[],
        idempotency_key="monday",
        result=None,
        created_at=created_at,
        updated_at=created_at,
        ended_at=None,
        retry_of=earlier.job_id,
    )


def test_a_submission_leaves_one_audit_row_that_comes_from_no_state(given: Given) -> None:
    job = given.pending()

    [entry] = given.intake.audit(job.job_id)

    assert (entry.move, entry.from_state, entry.to_state) == ("submit", None, JobState.PENDING)
    assert (entry.actor, entry.reason, entry.moved_at) == (SUBMITTER, None, job.created_at)


def test_the_tag_names_the_installation_the_plane_and_the_job(given: Given) -> None:
    name = given.dispatch.installation()

    job = given.pending()

    [row] = given.rows_of("jobs", job.job_id)
    assert row["tag"] == work_tag(name, job.data_plane_id, job.job_id)
    assert row["tag"] == f"countermand:{name}:{job.data_plane_id}:{job.job_id}:run"


def test_defaults_are_filled_in_when_a_job_is_submitted(given: Given) -> None:
    job = given.pending(JobType.SAMPLE, input={"dataset_id": 7})

    assert job.input == {"dataset_id": 7, "rows": 1000}


def test_the_older_spelling_of_the_compiled_sql_is_kept_as_it_was_given(given: Given) -> None:
    old = {"nql": "SELECT 1", "compiled_select": "SELECT 1", "dataset_id": 7, "stats_enabled": False}

    assert given.pending(input=old).input == old


@pytest.mark.parametrize(
    ("kind", "value", "named"),
    [
        (JobType.MATERIALIZE_VIEW, {}, "nql"),
        (JobType.MATERIALIZE_VIEW, {"nql": "x", "dataset_id": 1}, "compiled_sql"),
        (JobType.MATERIALIZE_VIEW, VIEW_INPUT | {"compiled_select": "SELECT 2"}, "compiled_select"),
        (JobType.MATERIALIZE_VIEW, VIEW_INPUT | {"compiled_sql": ""}, "compiled_sql"),
        (JobType.MATERIALIZE_VIEW, VIEW_INPUT | {"dataset_id": 0}, "dataset_id"),
        (JobType.MATERIALIZE_VIEW, VIEW_INPUT | {"dataset_id": 2**63}, "dataset_id"),
        (JobType.MATERIALIZE_VIEW, VIEW_INPUT | {"dataset_id": "6402"}, "dataset_id"),
        (JobType.MATERIALIZE_VIEW, VIEW_INPUT | {"compiled_sqll": "SELECT 1"}, "compiled_sqll"),
        (JobType.NQL_FORECAST, {"nql": "x"}, "compiled_sql"),
        (JobType.SAMPLE, {"dataset_id": 1, "rows": 0}, "rows"),
        (JobType.SAMPLE, {"dataset_id": 1, "rows": 100_001}, "rows"),
        (JobType.SAMPLE, [], "list"),
        (JobType.COSTS, "text", "str"),
        (JobType.COSTS, None, "NoneType"),
    ],
)
def test_an_input_that_cannot_be_right_is_named_and_submits_nothing(
    given: Given, kind: JobType, value: Any, named: str
) -> None:
    with pytest.raises(BadInput, match=f"^input: .*{named}") as caught:
        given.pending(kind, input=value)

    assert caught.value.field == "input"
    assert given.intake.jobs().total_records == 0


def test_text_that_the_database_cannot_hold_is_bad_input(given: Given) -> None:
    claim = given.running()
    calls: list[Callable[[], object]] = [
        partial(given.pending, input=VIEW_INPUT | {"compiled_sql": "SELECT '\x00'"}),
        partial(given.pending, JobType.COSTS, input={"note": "\x00"}),
        partial(given.pending, JobType.COSTS, input={"note": "\ud800"}),
        partial(given.pending, JobType.COSTS, input={"\x00": "a name"}),
        partial(given.pending, idempotency_key="\x00"),
        partial(given.request, claim.job_id, reason="\x00"),
        partial(given.new_plane, display_name="\x00"),
    ]

    outcomes = [outcome_of(call) for call in calls]

    assert all(isinstance(outcome, BadInput) for outcome in outcomes), outcomes


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["alone", "nested"])
def test_a_number_that_json_has_not_is_bad_input_and_submits_nothing(given: Given, number: float, where: str) -> None:
    document = {"rate": number} if where == "alone" else {"rates": [1.0, {"rate": number}]}

    with pytest.raises(BadInput, match=f"^input: JSON has no number {number}") as caught:
        given.pending(JobType.COSTS, input=document)

    assert caught.value.field == "input"
    assert given.intake.jobs().total_records == 0


def outcome_of(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 (the test tells which one it is)
        return error


def test_a_type_without_a_documented_input_takes_any_object(given: Given) -> None:
    anything = {"b": [1, None, {"c": "ü"}], "a": 1.5, "empty": {}}

    assert given.pending(JobType.COSTS, input=anything).input == anything


@pytest.mark.parametrize("field", ["data_plane_id", "retry_of"])
def test_a_submission_that_names_what_does_not_exist_is_told_which_field(given: Given, field: str) -> None:
    unknown = uuid4()
    new = NewJob(given.plane.data_plane_id, JobType.COSTS, {})
    wrong = NewJob(unknown, JobType.COSTS, {}) if field == "data_plane_id" else retry_of(new, unknown)

    with pytest.raises(NotFound, match=f"^{field}: .* {unknown}") as caught:
        given.intake.submit(wrong, SUBMITTER)

    assert caught.value.field == field
    assert given.intake.jobs().total_records == 0


def retry_of(new: NewJob, job_id: UUID) -> NewJob:
    return NewJob(new.data_plane_id, new.type, new.input, retry_of=job_id)


# --- idempotency keys -----------------------------------------------------------------------------------------------


def test_the_same_key_with_the_same_content_answers_the_same_job(given: Given) -> None:
    first = given.pending(idempotency_key="monday")
    given.clock.advance(60)

    again = given.pending(idempotency_key="monday")

    assert again == first
    assert given.intake.jobs().total_records == 1
    assert given.moves(first.job_id) == [("submit", None, "pending")]


def test_it_answers_the_job_also_when_its_plane_was_archived_since(given: Given) -> None:
    first = given.pending(idempotency_key="monday")
    given.request(first.job_id)
    given.intake.archive_plane(given.plane.data_plane_id)

    again = given.pending(idempotency_key="monday")

    assert again.job_id == first.job_id
    with pytest.raises(Conflict, match="is archived; it takes no jobs"):
        given.pending(idempotency_key="tuesday")


def test_it_answers_the_job_as_it_is_by_now(given: Given) -> None:
    claim = given.running(idempotency_key="monday")

    assert given.pending(idempotency_key="monday") == given.job(claim.job_id)


def test_content_is_the_same_with_its_defaults_filled_in(given: Given) -> None:
    first = given.pending(JobType.SAMPLE, input={"dataset_id": 7}, idempotency_key="monday")

    again = given.pending(JobType.SAMPLE, input={"rows": 1000, "dataset_id": 7}, idempotency_key="monday")

    assert again.job_id == first.job_id


@pytest.mark.parametrize(
    "different",
    [
        {"input": VIEW_INPUT | {"dataset_id": 1}},
        {"kind": JobType.SAMPLE},
        {"plane": "another"},
        {"execution_cluster": ExecutionCluster.DEDICATED},
        {"compute_pool_id": UUID(int=9)},
        {"retry_of": "another"},
    ],
    ids=lambda different: next(iter(different)),
)
def test_the_same_key_with_other_content_is_a_conflict_and_submits_nothing(
    given: Given, different: dict[str, Any]
) -> None:
    first = given.pending(idempotency_key="monday")
    another = given.pending()
    other: dict[str, Any] = {"plane": given.new_plane(), "retry_of": another.job_id}
    fields = {name: other[name] if value == "another" else value for name, value in different.items()}

    with pytest.raises(Conflict, match=f"idempotency_key: 'monday' was used for another job, {first.job_id}") as caught:
        given.pending(**fields, idempotency_key="monday")

    assert caught.value.field == "idempotency_key"
    assert given.intake.jobs().total_records == 2


def test_different_keys_and_none_make_jobs_of_their_own(given: Given) -> None:
    jobs = [given.pending(idempotency_key=key) for key in ("monday", "tuesday", None, None)]

    assert len({job.job_id for job in jobs}) == 4


def test_one_key_submitted_many_times_at_once_makes_one_job(given: Given) -> None:
    jobs = at_once(*[partial(given.pending, idempotency_key="monday")] * 6)

    assert len({job.job_id for job in jobs}) == 1
    assert given.moves(jobs[0].job_id) == [("submit", None, "pending")]


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["job", "audit"])
def test_reading_an_unknown_job_names_it(given: Given, read: str) -> None:
    unknown = uuid4()

    with pytest.raises(NotFound, match=f"job_id: there is no job {unknown}"):
        getattr(given.intake, read)(unknown)


@pytest.fixture
def six_jobs(given: Given) -> list[Job]:
    """Oldest first: views of two datasets, samples, costs; two on another plane; one running."""
    other = given.new_plane()
    made = []
    for kind, plane, fields in (
        (JobType.MATERIALIZE_VIEW, given.plane, {}),
        (JobType.MATERIALIZE_VIEW, other, {"input": VIEW_INPUT | {"dataset_id": 77}}),
        (JobType.SAMPLE, given.plane, {}),
        (JobType.COSTS, given.plane, {}),
        (JobType.NQL_FORECAST, other, {}),
        (JobType.SAMPLE, given.plane, {"input": {"dataset_id": 77}}),
    ):
        made.append(given.pending(kind, plane=plane, **fields))
        given.clock.advance(1)
    [started] = given.start([JobType.COSTS])
    assert started.job_id == made[3].job_id
    return made


def listed(page: Page, jobs: list[Job]) -> list[int]:
    numbers = {job.job_id: number for number, job in enumerate(jobs)}
    return [numbers[record.job_id] for record in page.records]


def test_without_filters_everything_is_listed_newest_first(given: Given, six_jobs: list[Job]) -> None:
    page = given.intake.jobs()

    assert listed(page, six_jobs) == [5, 4, 3, 2, 1, 0]
    assert (page.current_page, page.total_records, page.total_pages) == (1, 6, 1)
    assert page.records[0] == given.job(six_jobs[5].job_id)


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("created_at_asc", [0, 1, 2, 3, 4, 5]),
        ("created_at_desc", [5, 4, 3, 2, 1, 0]),
        ("updated_at_asc", [0, 1, 2, 4, 5, 3]),
        ("updated_at_desc", [3, 5, 4, 2, 1, 0]),
    ],
)
def test_a_listing_has_the_order_that_was_asked_for(
    given: Given, six_jobs: list[Job], order_by: str, expected: list[int]
) -> None:
    assert listed(given.intake.jobs(order_by=order_by), six_jobs) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": "materialize-view"}, [1, 0]),
        ({"state": "running"}, [3]),
        ({"state": "pending"}, [5, 4, 2, 1, 0]),
        ({"state": "cancelled"}, []),
        ({"dataset_id": 77}, [5, 1]),
        ({"dataset_id": 6402}, [2, 0]),
        ({"dataset_id": 1}, []),
        ({"dataset_id": 77, "type": "datasets_sample"}, [5]),
        ({"type": "datasets_sample", "state": "pending", "dataset_id": 6402}, [2]),
    ],
)
def test_a_listing_keeps_what_matches_every_filter(
    given: Given, six_jobs: list[Job], filters: dict[str, Any], expected: list[int]
) -> None:
    page = given.intake.jobs(Filters(**filters))

    assert listed(page, six_jobs) == expected
    assert page.total_records == len(expected)


def test_a_listing_of_one_plane_has_no_other_planes_jobs(given: Given, six_jobs: list[Job]) -> None:
    assert listed(given.intake.jobs(Filters(data_plane_id=given.plane.data_plane_id)), six_jobs) == [5, 3, 2, 0]
    assert listed(given.intake.jobs(Filters(data_plane_id=uuid4())), six_jobs) == []


@pytest.mark.parametrize("dataset_id", ["77", "ds_77", 77.5, 10**30, None, {"id": 77}])
def test_a_dataset_is_found_whatever_other_jobs_call_their_dataset(
    given: Given, six_jobs: list[Job], dataset_id: object
) -> None:
    given.pending(JobType.DELIVER_DATA, input={"dataset_id": dataset_id})

    found = [job.job_id for job in given.intake.jobs(Filters(dataset_id=77)).records]

    assert {six_jobs[1].job_id, six_jobs[5].job_id} <= set(found)


@pytest.mark.parametrize(
    ("per_page", "offset", "expected", "current_page", "total_pages"),
    [
        (2, 0, [0, 1], 1, 3),
        (2, 2, [2, 3], 2, 3),
        (2, 4, [4, 5], 3, 3),
        (4, 4, [4, 5], 2, 2),
        (5, 0, [0, 1, 2, 3, 4], 1, 2),
        (6, 0, [0, 1, 2, 3, 4, 5], 1, 1),
        (500, 0, [0, 1, 2, 3, 4, 5], 1, 1),
        (2, 100, [], 51, 3),
        (1, 5, [5], 6, 6),
    ],
)
def test_pages_count_from_one_and_leave_nothing_out(
    given: Given,
    six_jobs: list[Job],
    per_page: int,
    offset: int,
    expected: list[int],
    current_page: int,
    total_pages: int,
) -> None:
    page = given.intake.jobs(order_by="created_at_asc", per_page=per_page, offset=offset)

    assert listed(page, six_jobs) == expected
    assert (page.current_page, page.total_records, page.total_pages) == (current_page, 6, total_pages)


def test_jobs_of_one_instant_stand_on_one_page_only(given: Given) -> None:
    jobs = {given.pending().job_id for _ in range(7)}

    pages = [given.intake.jobs(per_page=3, offset=offset).records for offset in (0, 3, 6)]

    found = [job.job_id for page in pages for job in page]
    assert len(found) == 7
    assert set(found) == jobs


def test_an_empty_listing_has_no_pages(given: Given) -> None:
    page = given.intake.jobs()

    assert (page.current_page, page.total_records, page.total_pages, page.records) == (1, 0, 0, [])


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("order_by", {"order_by": "state_asc"}),
        ("order_by", {"order_by": ""}),
        ("per_page", {"per_page": 0}),
        ("per_page", {"per_page": 501}),
        ("per_page", {"per_page": -1}),
        ("offset", {"offset": -1}),
        ("offset", {"offset": 2**63}),
        ("state", {"filters": Filters(state="asleep")}),
        ("type", {"filters": Filters(type="materialise-view")}),
        ("dataset_id", {"filters": Filters(dataset_id=2**63)}),
    ],
)
def test_a_listing_that_cannot_be_right_is_told_which_field(
    given: Given, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(CountermandError, match=f"^{field}: ") as caught:
        given.intake.jobs(**arguments)

    assert isinstance(caught.value, BadInput)
    assert caught.value.field == field


def test_a_listing_shows_each_job_with_its_cancellation(given: Given) -> None:
    claim = given.running()
    asked = given.request(claim.job_id, OTHER_ASKER, "no longer needed")

    [record] = given.intake.jobs().records

    assert record == asked
    assert record.executor == EXECUTOR.executor_id
    assert record.cancellation is not None
    assert record.cancellation.requested_by == OTHER_ASKER


SUBMITTED = [kind for kind in JobType if kind is not JobType.EXTERNAL]


def test_a_job_of_every_type_can_be_submitted_and_read(given: Given) -> None:
    jobs = [given.pending(kind, input=INPUTS.get(kind, {"any": "thing"})) for kind in SUBMITTED]

    assert [given.job(job.job_id).type for job in jobs] == SUBMITTED


def test_an_input_that_is_nested_too_deeply_is_refused_before_it_breaks_a_listing(given: Given) -> None:
    nested: dict[str, Any] = {}
    for _ in range(100):
        nested = {"in": nested}

    with pytest.raises(BadInput, match="input: it is nested deeper than 100 levels"):
        given.intake.submit(NewJob(given.plane.data_plane_id, JobType.COSTS, nested), SUBMITTER)

    assert given.intake.jobs().total_records == 0


def test_a_plane_is_not_chosen_by_a_name_that_two_companies_gave(given: Given) -> None:
    for company in (2, 3):
        given.intake.within(Scope(company)).create_plane(NewPlane("prod", Platform.NARRATIVE))

    with pytest.raises(BadInput, match=r"data_plane: several are called 'prod'; give one's id: .* of company 3"):
        find_plane(given.intake.planes(), "prod")
