"""What no database can hold, wherever an operation takes text or a number: refused or replaced, never a 500."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration.api import Api, job_path, plane_path, served
from tests.integration.given import EXECUTOR, Given

NUL = "a\0b"
LEASE = str(UUID(int=1))
MOMENT = "2026-01-01T00:00:00Z"
SOUND = {"executor_id": EXECUTOR.executor_id, "incarnation": 1}
EXECUTORS = {
    "a NUL in its id": SOUND | {"executor_id": NUL},
    "a NUL in its address": SOUND | {"address": NUL},
    "a large incarnation": SOUND | {"incarnation": 2**40},
    "a huge incarnation": SOUND | {"incarnation": 2**63 - 1},
}
OF_EXECUTORS: dict[str, dict[str, Any]] = {
    "/executors/register": {"token": LEASE},
    "/executors/confirm-lower-incarnations": {},
    "/jobs/claim": {"types": ["costs"], "limit": 1, "incarnation": "1"},
    "/jobs/commit": {"commits": []},
    "/jobs/complete": {"job_ids": [LEASE]},
    "/jobs/fail": {"failures": []},
    "/jobs/committed": {},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


@pytest.mark.anyio
@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("path", OF_EXECUTORS)
async def test_an_executor_that_cannot_be_kept_is_refused(api: Api, path: str, executor: dict[str, Any]) -> None:
    answer = await api.process().post(plane_path(api.given.plane, path), OF_EXECUTORS[path] | {"executor": executor})

    assert answer.status_code in (400, 404), answer.text


@pytest.mark.anyio
async def test_a_claim_with_a_name_that_cannot_be_kept_is_refused(api: Api) -> None:
    process, plane = api.process(), api.given.plane
    job = {"executor": SOUND, "types": ["costs"], "limit": 1, "incarnation": NUL}

    answers = [
        await process.post(plane_path(plane, "/jobs/claim"), job),
        await process.post(plane_path(plane, "/cancellations/claim"), {"worker": NUL, "limit": 1}),
        await process.post(plane_path(plane, "/cancellations/settle"), {"worker": NUL, "settlements": []}),
        await process.post(job_path(api.given.pending().job_id, "/run"), {"executor": SOUND, "incarnation": NUL}),
    ]

    assert [answer.status_code for answer in answers] == [400] * 4
    assert [answer.json()["detail"].partition(":")[0] for answer in answers] == [
        "incarnation",
        "worker",
        "worker",
        "incarnation",
    ]


@pytest.mark.anyio
async def test_an_engines_last_words_keep_no_job_from_being_settled(api: Api) -> None:
    process, plane = api.process(), api.given.plane
    job_id = api.given.requested().job_id
    [held] = api.given.claim()
    evidence = {"closure": "engine_closed", "tag": "countermand:a:b:c:run", "engine": "duckdb"}
    receipt = {"outcome": "stopped", "seen_at": MOMENT, "worker": "w", "engine_status": NUL} | evidence
    settlement = {"job_id": str(job_id), "lease": str(held.lease), "receipt": receipt}

    answer = await process.post(
        plane_path(plane, "/cancellations/settle"), {"worker": "w", "settlements": [settlement]}
    )

    assert (answer.status_code, answer.json()["settled"][0]["landed"]) == (200, True)
    kept = api.given.job(job_id).receipt
    assert kept is not None
    assert kept.engine_status == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.anyio
async def test_what_a_process_tells_of_its_jobs_may_be_any_text(api: Api) -> None:
    process, plane, claim = api.process(), api.given.plane, api.given.running()
    cause = {"message": NUL, "timestamp": MOMENT, "value": {NUL: NUL}}
    told: dict[str, Any] = {
        "/jobs/handles": {
            "handles": {str(claim.job_id): {"engine": NUL, "incarnation": NUL, "run_id": NUL}},
            "epochs": {str(claim.job_id): str(claim.epoch)},
        },
        "/cancellations/leftovers": {"removed": {str(claim.job_id): [NUL]}},
        "/cancellations/postpone": {
            "postponements": [
                {
                    "job_id": str(uuid4()),
                    "lease": LEASE,
                    "waiting": "plane_silent",
                    "detail": NUL,
                    "delay_seconds": 1,
                }
            ]
        },
        "/jobs/fail": {
            "executor": SOUND,
            "failures": [{"job_id": str(claim.job_id), "epoch": str(claim.epoch), "cause": cause}],
        },
    }

    answers = {path: await process.post(plane_path(plane, path), body) for path, body in told.items()}

    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(told, 200)
