"""Who sees which planes and jobs, without the API: the rules, and the store within them."""

from uuid import UUID

import pytest

from control_plane.errors import Forbidden, NotFound
from control_plane.intake import CancellationRequest, Intake, NewJob, NewPlane
from control_plane.jobs import ApiUser, Job, JobType
from control_plane.planes import DataPlane, Platform
from control_plane.scope import OPERATOR, Scope
from control_plane.statements import Filters
from tests.integration.given import ASKER, WHY, Given

OWNER, COLLABORATOR, STRANGER = 1, 2, 3
PLANE, OTHER_PLANE = UUID(int=1), UUID(int=2)

# --- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "shared", "sees"),
    [
        (OPERATOR, False, True),
        (Scope(OWNER), False, True),
        (Scope(COLLABORATOR), True, True),
        (Scope(STRANGER), False, False),
        (Scope(OWNER, PLANE), False, True),
        (Scope(OWNER, OTHER_PLANE), False, False),
        (Scope(COLLABORATOR, OTHER_PLANE), True, False),
        (Scope(None, OTHER_PLANE), False, False),
    ],
)
def test_a_plane_is_seen_by_its_owner_by_whom_it_is_shared_with_and_by_operators(
    scope: Scope, shared: bool, sees: bool
) -> None:
    assert scope.sees_plane(PLANE, OWNER, shared=shared) is sees


@pytest.mark.parametrize(
    ("scope", "company", "sees"),
    [
        (OPERATOR, COLLABORATOR, True),
        (Scope(OWNER), COLLABORATOR, True),
        (Scope(OWNER), OWNER, True),
        (Scope(COLLABORATOR), COLLABORATOR, True),
        (Scope(COLLABORATOR), OWNER, False),
        (Scope(STRANGER), COLLABORATOR, False),
        (Scope(OWNER, PLANE), COLLABORATOR, True),
        (Scope(OWNER, OTHER_PLANE), OWNER, False),
        (Scope(COLLABORATOR, OTHER_PLANE), COLLABORATOR, False),
    ],
)
def test_a_job_is_seen_by_who_submitted_it_and_by_the_owner_of_its_plane(
    scope: Scope, company: int, sees: bool
) -> None:
    assert scope.sees_job(PLANE, company, OWNER) is sees


# --- the store within them -------------------------------------------------------------------------------------------


@pytest.fixture
def shared_plane(given: Given) -> DataPlane:
    return given.new_plane(collaborators=[COLLABORATOR])


def within(given: Given, company_id: int, plane: DataPlane | None = None) -> Intake:
    return given.intake.within(Scope(company_id, plane.data_plane_id if plane else None))


def submit(given: Given, plane: DataPlane, company_id: int) -> Job:
    new = NewJob(plane.data_plane_id, JobType.COSTS, {})
    return within(given, company_id).submit(new, ApiUser(company_id, company_id))


def listed(intake: Intake, plane: DataPlane | None = None) -> set[UUID]:
    page = intake.jobs(Filters(data_plane_id=plane.data_plane_id if plane else None))
    assert page.total_records == len(page.records)
    return {job.job_id for job in page.records}


def test_a_listing_is_of_the_company_and_of_its_own_plane_everybodys(given: Given, shared_plane: DataPlane) -> None:
    owners, theirs = submit(given, shared_plane, OWNER).job_id, submit(given, shared_plane, COLLABORATOR).job_id

    of_all = {company: listed(within(given, company)) for company in (OWNER, COLLABORATOR, STRANGER)}
    of_plane = {company: listed(within(given, company), shared_plane) for company in (OWNER, COLLABORATOR, STRANGER)}

    assert of_all == {OWNER: {owners}, COLLABORATOR: {theirs}, STRANGER: set()}
    assert of_plane == {OWNER: {owners, theirs}, COLLABORATOR: {theirs}, STRANGER: set()}
    assert listed(given.intake) == {owners, theirs}


def test_bound_to_a_plane_a_listing_is_of_that_plane(given: Given, shared_plane: DataPlane) -> None:
    owners, theirs = submit(given, shared_plane, OWNER).job_id, submit(given, shared_plane, COLLABORATOR).job_id
    submit(given, given.plane, OWNER)

    bound = within(given, OWNER, shared_plane)

    assert listed(bound) == {owners, theirs}
    assert listed(bound, given.plane) == set()


def test_what_is_out_of_scope_is_not_there(given: Given, shared_plane: DataPlane) -> None:
    theirs, stranger = submit(given, shared_plane, COLLABORATOR), within(given, STRANGER)

    for look in (stranger.job, stranger.audit):
        with pytest.raises(NotFound):
            look(theirs.job_id)
    with pytest.raises(NotFound):
        stranger.plane(shared_plane.data_plane_id)
    with pytest.raises(NotFound):
        submit(given, shared_plane, STRANGER)

    assert stranger.planes() == []


def test_each_request_of_a_batch_is_asked_within_its_own_scope(given: Given, shared_plane: DataPlane) -> None:
    """Requests of several companies share a statement, never a scope."""
    jobs = [submit(given, shared_plane, COLLABORATOR).job_id for _ in range(3)]
    companies = (STRANGER, OWNER, COLLABORATOR)
    asked = [
        CancellationRequest(job_id, ASKER, WHY, Scope(company)) for job_id, company in zip(jobs, companies, strict=True)
    ]

    answers = given.intake.request_cancellations(asked)

    assert isinstance(answers[0], NotFound)
    assert [type(answer) for answer in answers[1:]] == [Job, Job]
    assert [given.job(job_id).state for job_id in jobs] == ["pending", "cancelled", "cancelled"]


def test_of_two_who_ask_for_one_job_at_once_the_one_who_may_is_answered(given: Given, shared_plane: DataPlane) -> None:
    job_id = submit(given, shared_plane, COLLABORATOR).job_id
    asked = [CancellationRequest(job_id, ApiUser(who, who), WHY, Scope(who)) for who in (STRANGER, COLLABORATOR)]

    refused, answered = given.intake.request_cancellations(asked)

    assert isinstance(refused, NotFound)
    assert isinstance(answered, Job)
    assert answered.cancellation is not None
    assert answered.cancellation.requested_by == ApiUser(COLLABORATOR, COLLABORATOR)


def test_who_is_bound_to_a_plane_makes_no_other(given: Given) -> None:
    bound = within(given, OWNER, given.plane)

    with pytest.raises(Forbidden):
        bound.create_plane(NewPlane("another", Platform.NARRATIVE))

    assert len(given.intake.planes()) == 1


def test_a_collaborator_does_not_archive(given: Given, shared_plane: DataPlane) -> None:
    with pytest.raises(Forbidden):
        within(given, COLLABORATOR).archive_plane(shared_plane.data_plane_id)

    assert given.intake.plane(shared_plane.data_plane_id).status == "active"


def test_an_attestation_is_within_a_scope(given: Given) -> None:
    claim = given.requested()

    with pytest.raises(NotFound):
        within(given, STRANGER).attest(claim.job_id, ApiUser(STRANGER, 1), "Eve", "trust me")

    assert given.job(claim.job_id).state == "pending_cancellation"


def test_a_retry_repeats_a_job_within_the_scope(given: Given, shared_plane: DataPlane) -> None:
    owners = submit(given, shared_plane, OWNER).job_id
    retry = NewJob(shared_plane.data_plane_id, JobType.COSTS, {}, retry_of=owners)

    with pytest.raises(NotFound) as caught:
        within(given, COLLABORATOR).submit(retry, ApiUser(COLLABORATOR, 1))

    assert caught.value.field == "retry_of"
    assert listed(given.intake) == {owners}
