"""Cancelling over HTTP: asking for it, finalizing it with evidence, and looking how far it is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import event

from control_plane.jobs import JobType
from control_plane.planes import DataPlane, Platform
from control_plane.store import Store
from control_plane.tokens import Permission
from control_plane.work import Claim
from tests.integration.api import EVERY_PERMISSION, FOREIGN_COMPANY, Api, job_path, plane_path, served, soon
from tests.integration.given import WHY, Given, receipt_at

pytestmark = pytest.mark.anyio

ATTESTATION = "I saw it end in the engine's own page"
COLLABORATOR = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


def ask(job_id: UUID) -> str:
    return job_path(job_id, "/request-cancellation")


def finalize(job_id: UUID) -> str:
    return job_path(job_id, "/cancel")


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"reason": None}, {"reason": WHY}], ids=str)
async def test_a_request_moves_a_running_job_and_keeps_who_asked_and_why(api: Api, body: Any) -> None:
    claim, person = api.given.running(), api.bearer(user_id=7)

    answer = await person.post(ask(claim.job_id), body)

    asked = answer.json()["cancellation"]
    assert (answer.status_code, answer.json()["state"]) == (200, "pending_cancellation")
    assert asked["requested_by"] == {"type": "api_user", "company_id": 1, "user_id": 7}
    assert asked["reason"] == (body or {}).get("reason")


async def test_a_request_for_a_job_that_nobody_claimed_ends_in_cancelled(api: Api) -> None:
    job, person = api.given.pending(), api.bearer()

    asked = await person.post(ask(job.job_id))
    shown = await person.get(job_path(job.job_id))

    assert (asked.json()["state"], shown.json()["state"]) == ("pending_cancellation", "cancelled")
    assert (shown.json()["receipt"]["outcome"], shown.json()["receipt"]["closure"]) == (
        "never_started",
        "never_claimed",
    )


@pytest.mark.parametrize("state", ["cancelled", "completed", "failed"])
async def test_a_request_for_a_job_that_ended_is_a_no_op_that_answers_it_as_it_is(api: Api, state: str) -> None:
    job_id, person = getattr(api.given, state)(), api.bearer()
    before = api.given.everything(job_id)

    answer = await person.post(ask(job_id), {"reason": "too late"})

    assert (answer.status_code, answer.json()) == (200, (await person.get(job_path(job_id))).json())
    assert answer.json()["state"] == state
    assert api.given.everything(job_id) == before


async def test_a_second_request_is_a_no_op_that_answers_the_first(api: Api) -> None:
    claim, person = api.given.running(), api.bearer(user_id=7)
    first = await person.post(ask(claim.job_id), {"reason": WHY})
    before = api.given.everything(claim.job_id)
    api.given.clock.advance(60)

    second = await api.bearer(user_id=8).post(ask(claim.job_id), {"reason": "another"})

    assert (second.status_code, second.json()) == (200, first.json())
    assert api.given.everything(claim.job_id) == before


async def test_what_cannot_be_cancelled_is_refused_naming_what_can_and_stays_as_it_is(api: Api) -> None:
    claim = api.given.running(JobType.DELIVER_DATA)
    before = api.given.everything(claim.job_id)

    answer = await api.bearer().post(ask(claim.job_id), {"reason": WHY})

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/not-cancellable")
    assert answer.json()["detail"] == (
        "type: a datasets_deliver_data job cannot be cancelled on platform_aws; supported are costs, "
        "datasets_calculate_column_stats, datasets_sample, forecast, materialize-view, model_training_run, nql-forecast"
    )
    assert api.given.everything(claim.job_id) == before


async def test_on_snowflake_a_delivery_can_be_cancelled(api: Api) -> None:
    claim = api.given.running(JobType.DELIVER_DATA, plane=api.given.new_plane(Platform.SNOWFLAKE))

    answer = await api.bearer().post(ask(claim.job_id))

    assert answer.status_code == 200


async def test_a_planes_owner_sees_and_cancels_a_collaborators_job_and_a_collaborator_only_its_own(api: Api) -> None:
    plane = api.given.new_plane(collaborators=[COLLABORATOR])
    theirs = await _submitted(api, plane, COLLABORATOR)
    owners = await _submitted(api, plane, 1)

    by_owner = await api.bearer(company_id=1).post(ask(theirs))
    by_collaborator = await api.bearer(company_id=COLLABORATOR).post(ask(owners))

    assert (by_owner.status_code, by_owner.json()["state"]) == (200, "pending_cancellation")
    assert by_collaborator.status_code == 404
    assert api.given.job(owners).state == "pending"


async def _submitted(api: Api, plane: DataPlane, company_id: int) -> UUID:
    body = {"data_plane_id": plane.data_plane_id, "type": "costs", "input": {}}
    answer = await api.bearer(company_id=company_id).post("/jobs", body)
    return UUID(answer.json()["job_id"])


# --- asking at once --------------------------------------------------------------------------------------------------


async def test_a_hundred_who_ask_at_once_get_one_answer_and_leave_one_audit_row(api: Api) -> None:
    claim = api.given.running()
    askers = [api.bearer(user_id=number) for number in range(1, 11)]

    answers = await asyncio.gather(
        *(asker.post(ask(claim.job_id), {"reason": WHY}) for asker in askers for _ in range(10))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["job_id"] == str(claim.job_id)
    assert [move for move, _, _ in api.given.moves(claim.job_id)].count("request_cancellation") == 1


async def test_requests_that_arrive_together_share_statements_and_a_bad_one_harms_no_other(api: Api) -> None:
    person, nobodys = api.bearer(), uuid4()
    good = [api.given.running().job_id for _ in range(20)]
    refused = api.given.running(JobType.DELIVER_DATA).job_id
    foreign = await _submitted(api, api.plane_of(FOREIGN_COMPANY), FOREIGN_COMPANY)

    with statements_of(api.given.store) as performed:
        answers = await asyncio.gather(
            *(person.post(ask(job_id), {"reason": WHY}) for job_id in [nobodys, *good, refused, foreign])
        )

    assert [answer.status_code for answer in answers] == [404, *[200] * len(good), 422, 404]
    assert [UUID(answer.json()["job_id"]) for answer in answers[1:-2]] == good
    assert all(api.given.job(job_id).state == "pending_cancellation" for job_id in good)
    assert api.given.job(refused).state == "running"
    assert sum("UPDATE jobs" in statement for statement in performed) < len(good) / 4


async def test_text_that_no_database_holds_harms_only_its_own_request(api: Api) -> None:
    person, bad, good = api.bearer(), api.given.running(), api.given.running()

    answers = await asyncio.gather(
        person.post(ask(bad.job_id), {"reason": "a\0b"}), person.post(ask(good.job_id), {"reason": WHY})
    )

    assert [answer.status_code for answer in answers] == [400, 200]
    assert answers[0].json()["detail"].startswith("reason: ")
    assert api.given.job(bad.job_id).state == "running"


class statements_of:  # noqa: N801  # reads as what it is: a context
    """The texts of the statements that a store performs meanwhile."""

    def __init__(self, store: Store) -> None:
        self._engines = [store.engine, store._single]
        self._texts: list[str] = []

    def __enter__(self) -> list[str]:
        for engine in self._engines:
            event.listen(engine, "before_cursor_execute", self._note)
        return self._texts

    def __exit__(self, *_: object) -> None:
        for engine in self._engines:
            event.remove(engine, "before_cursor_execute", self._note)

    def _note(self, *arguments: Any) -> None:
        self._texts.append(arguments[2])


# --- finalizing: the reference's rules -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "running"])
@pytest.mark.parametrize("body", [None, {"attestation": ATTESTATION}], ids=["plain", "with evidence"])
async def test_what_nobody_asked_to_cancel_is_not_finalized(api: Api, state: str, body: Any) -> None:
    made = getattr(api.given, state)()
    before = api.given.everything(made.job_id)

    answer = await api.bearer().post(finalize(made.job_id), body)

    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")
    assert state in answer.json()["detail"]
    assert api.given.everything(made.job_id) == before


@pytest.mark.parametrize("state", ["cancelled", "completed", "failed"])
@pytest.mark.parametrize("body", [None, {"attestation": ATTESTATION}], ids=["plain", "with evidence"])
@pytest.mark.parametrize("who", ["person", "process"])
async def test_finalizing_a_job_that_ended_is_a_no_op(api: Api, state: str, body: Any, who: str) -> None:
    job_id = getattr(api.given, state)()
    bearer = api.bearer() if who == "person" else api.process()
    before = api.given.everything(job_id)

    answer = await bearer.post(finalize(job_id), body)

    assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert api.given.everything(job_id) == before


# --- finalizing: a person's word -------------------------------------------------------------------------------------


async def test_an_attestation_is_recorded_with_the_name_and_shown_as_unproven(api: Api) -> None:
    claim, person = api.given.requested(), api.bearer(user_id=7, name="Ada")

    answer = await person.post(finalize(claim.job_id), {"attestation": ATTESTATION})
    progress = (await person.get(job_path(claim.job_id, "/cancellation"))).json()
    last = (await person.get(job_path(claim.job_id, "/events"))).json()["records"][-1]

    receipt = answer.json()["receipt"]
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (receipt["outcome"], receipt["worker"], receipt["attestation"]) == ("attested", "Ada", ATTESTATION)
    assert (progress["proven"], progress["receipt"]) == (False, receipt)
    assert (last["move"], last["actor"], last["reason"]) == (
        "cancel",
        {"type": "api_user", "company_id": 1, "user_id": 7},
        ATTESTATION,
    )


async def test_a_token_that_names_no_person_attests_nothing(api: Api) -> None:
    claim = api.given.requested()
    before = api.given.everything(claim.job_id)

    answer = await api.bearer().post(finalize(claim.job_id), {"attestation": ATTESTATION})

    assert (answer.status_code, "a person attests" in answer.json()["detail"]) == (403, True)
    assert api.given.everything(claim.job_id) == before


async def test_who_may_not_attest_finalizes_nothing(api: Api) -> None:
    claim = api.given.requested()
    before = api.given.everything(claim.job_id)

    answer = await api.bearer(EVERY_PERMISSION - {Permission.JOBS_ATTEST}).post(
        finalize(claim.job_id), {"attestation": ATTESTATION}
    )

    assert (answer.status_code, "jobs:attest" in answer.json()["detail"]) == (403, True)
    assert api.given.everything(claim.job_id) == before


@pytest.mark.parametrize(
    "body",
    [None, {}, {"attestation": ""}, {"attestation": " \n"}, {"attestation": "a\0b"}, {"lease": str(uuid4())}],
    ids=["nothing", "no field", "empty", "blank", "NUL", "a lease"],
)
async def test_a_person_who_says_nothing_of_how_they_know_finalizes_nothing(api: Api, body: Any) -> None:
    claim = api.given.requested()
    before = api.given.everything(claim.job_id)

    answer = await api.bearer().post(finalize(claim.job_id), body)

    assert (answer.status_code, "attestation" in answer.json()["detail"]) == (400, True)
    assert api.given.everything(claim.job_id) == before


async def test_a_person_does_not_hand_in_a_receipt(api: Api) -> None:
    held = api.given.leased()
    before = api.given.everything(held.work.job_id)

    answer = await api.bearer().post(
        finalize(held.work.job_id), {"lease": held.lease, "receipt": receipt_at(api.given.clock.now)}
    )

    assert answer.status_code == 400
    assert api.given.everything(held.work.job_id) == before


async def test_a_committed_job_is_not_attested_away(api: Api) -> None:
    claim = api.given.committed()
    before = api.given.everything(claim.job_id)

    answer = await api.bearer().post(finalize(claim.job_id), {"attestation": ATTESTATION})

    assert answer.status_code == 409
    assert api.given.everything(claim.job_id) == before


# --- finalizing: a worker's receipt ----------------------------------------------------------------------------------


async def test_a_workers_receipt_lands_with_its_lease(api: Api) -> None:
    held, receipt = api.given.leased(), receipt_at(api.given.clock.now)

    answer = await api.process().post(finalize(held.work.job_id), {"lease": held.lease, "receipt": receipt})
    progress = await api.bearer().get(job_path(held.work.job_id, "/cancellation"))

    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.json()["receipt"]["engine_status"] == receipt.engine_status
    assert answer.json()["receipt"]["worker"] == "operator"  # the token's name, whatever the receipt says
    assert progress.json()["proven"] is True


@pytest.mark.parametrize("lacking", ["closure", "tag", "engine"])
async def test_a_receipt_that_does_not_say_what_was_looked_for_is_refused(api: Api, lacking: str) -> None:
    held, process = api.given.leased(), api.process()
    before = api.given.everything(held.work.job_id)
    receipt = msgspec.to_builtins(receipt_at(api.given.clock.now)) | {lacking: None}
    settlement = {"job_id": held.work.job_id, "lease": held.lease, "receipt": receipt}

    one = await process.post(finalize(held.work.job_id), {"lease": held.lease, "receipt": receipt})
    batch = await process.post(
        plane_path(api.given.plane, "/cancellations/settle"), {"worker": "w", "settlements": [settlement]}
    )

    assert (one.status_code, batch.status_code) == (400, 400)
    assert api.given.everything(held.work.job_id) == before


async def test_a_receipt_under_a_lease_that_was_taken_over_is_a_conflict(api: Api) -> None:
    stalled = api.given.leased()
    api.given.clock.advance(60)
    [taken_over] = api.given.claim(worker="quick")
    before = api.given.everything(stalled.work.job_id)
    assert taken_over.lease != stalled.lease

    answer = await api.process().post(
        finalize(stalled.work.job_id), {"lease": stalled.lease, "receipt": receipt_at(api.given.clock.now)}
    )

    assert answer.status_code == 409
    assert api.given.everything(stalled.work.job_id) == before


@pytest.mark.parametrize("missing", ["lease", "receipt", "evidence"])
async def test_a_worker_finalizes_nothing_without_evidence(api: Api, missing: str) -> None:
    held = api.given.leased()
    whole: dict[str, Any] = {"lease": held.lease, "receipt": receipt_at(api.given.clock.now)}
    body = {"attestation": ATTESTATION} if missing == "evidence" else {k: v for k, v in whole.items() if k != missing}
    before = api.given.everything(held.work.job_id)

    answer = await api.process().post(finalize(held.work.job_id), body)

    assert answer.status_code == 400
    assert api.given.everything(held.work.job_id) == before


async def test_a_worker_attests_nothing_in_a_receipts_guise(api: Api) -> None:
    held = api.given.leased()
    receipt = {"outcome": "attested", "seen_at": api.given.clock.now, "worker": "w1", "attestation": ATTESTATION}
    before, operator = api.given.everything(held.work.job_id), api.process()

    one = await operator.post(finalize(held.work.job_id), {"lease": held.lease, "receipt": receipt})
    settlement = {"job_id": held.work.job_id, "lease": held.lease, "receipt": receipt}
    many = await operator.post(
        plane_path(api.given.plane, "/cancellations/settle"), {"worker": "w1", "settlements": [settlement]}
    )

    assert (one.status_code, many.status_code) == (400, 400)
    assert api.given.everything(held.work.job_id) == before


# --- looking ---------------------------------------------------------------------------------------------------------


async def test_a_cancellation_tells_how_far_it_is_and_why_it_waits(api: Api) -> None:
    held = api.given.leased()
    api.given.dispatch.postpone([api.given.postponement(held)])

    answer = await api.bearer().get(job_path(held.work.job_id, "/cancellation"))

    progress = answer.json()
    assert (progress["state"], progress["receipt"], progress["proven"]) == ("pending_cancellation", None, None)
    assert (progress["cancellation"]["rounds"], progress["cancellation"]["waiting"]) == (1, "still_running")
    assert progress["cancellation"]["waiting_detail"] == "the engine says: running"


async def test_a_job_that_nobody_asked_to_cancel_has_no_cancellation(api: Api) -> None:
    claim: Claim = api.given.running()

    answer = await soon(api.bearer().get(job_path(claim.job_id, "/cancellation")))

    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
