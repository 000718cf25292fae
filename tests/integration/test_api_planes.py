"""Data planes over HTTP: made, shared, heard of, and archived."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from control_plane.jobs import ExecutionCluster
from control_plane.planes import SILENT_AFTER_SECONDS
from tests.integration.api import FOREIGN_COMPANY, Api, plane_path, served, submission
from tests.integration.given import Given

pytestmark = pytest.mark.anyio

COLLABORATOR = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


def plane_body(**fields: Any) -> dict[str, Any]:
    return {"display_name": f"made {uuid4()}", "platform": {"type": "platform_aws"}} | fields


# --- making ----------------------------------------------------------------------------------------------------------


async def test_a_plane_is_the_companys_that_made_it_and_is_shown_as_it_was_made(api: Api) -> None:
    body = plane_body(
        display_name="warehouse",
        platform={"type": "platform_snowflake"},
        external_id="acct-7",
        description="ours",
        tags=["eu", "prod"],
        collaborators=[9, COLLABORATOR, 9],
        permit_seconds=12.5,
        listing_lag_seconds=3.0,
        stuck_after_seconds=60.0,
    )
    person = api.bearer(company_id=FOREIGN_COMPANY)

    made = await person.post("/data-planes", body)
    shown = await person.get(f"/data-planes/{made.json()['data_plane_id']}")

    assert made.status_code == 201
    assert shown.json() == made.json()
    assert shown.json() == body | {
        "data_plane_id": made.json()["data_plane_id"],
        "company_id": FOREIGN_COMPANY,
        "collaborators": [COLLABORATOR, 9],
        "status": "active",
        "created_at": "2026-03-01T12:00:00Z",
        "last_heartbeat_at": None,
        "silent": False,
        "tracking": {"users": [], "warehouses": [], "roles": []},
        "execution_clusters": [],
    }


async def test_a_plane_needs_a_name_and_a_platform_and_no_more(api: Api) -> None:
    made = await api.bearer().post("/data-planes", plane_body())

    assert made.status_code == 201
    assert {made.json()[name] for name in ("external_id", "description")} == {None}
    assert (made.json()["tags"], made.json()["collaborators"]) == ([], [])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"display_name": ""}, "display_name"),
        ({"display_name": " "}, "display_name"),
        ({"display_name": "a\0b"}, "display_name"),
        ({"platform": {"type": "platform_abacus"}}, "platform.type"),
        ({"platform": "platform_aws"}, "platform"),
        ({"permit_seconds": 0}, "permit_seconds"),
        ({"listing_lag_seconds": -1}, "listing_lag_seconds"),
        ({"stuck_after_seconds": 1e300}, "stuck_after_seconds"),
        ({"collaborators": [0]}, "collaborators"),
        ({"collaborators": [2**31]}, "collaborators"),
        ({"tags": [""]}, "tags"),
        ({"description": "a\0b"}, "description"),
        ({"execution_clusters": ["vast"]}, "execution_clusters"),
        ({"execution_clusters": ["shared"], "platform": {"type": "platform_snowflake"}}, "execution_clusters"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
async def test_a_plane_that_cannot_be_right_is_refused_naming_the_field(
    api: Api, fields: dict[str, Any], field: str
) -> None:
    answer = await api.bearer().post("/data-planes", plane_body(**fields))

    assert (answer.status_code, field in answer.json()["detail"]) == (400, True), answer.json()["detail"]
    assert len((await api.bearer().get("/data-planes")).json()["records"]) == 1  # the given one


async def test_a_planes_clusters_are_shown_the_one_first_that_jobs_get_which_name_none(api: Api) -> None:
    person = api.bearer()

    made = (await person.post("/data-planes", plane_body(execution_clusters=["dedicated", "shared"]))).json()
    job = await person.post("/jobs", submission(api.given.intake.plane(made["data_plane_id"])))

    assert made["execution_clusters"] == ["shared", "dedicated"]
    assert job.json()["execution_cluster"] == "shared"


async def test_a_cluster_that_a_plane_does_not_have_is_refused_naming_the_field_and_what_there_is(api: Api) -> None:
    plane = api.given.new_plane(execution_clusters=[ExecutionCluster.DEDICATED])

    refused = await api.bearer().post("/jobs", submission(plane, execution_cluster="shared"))

    assert refused.status_code == 400
    assert refused.json()["detail"].startswith(f"execution_cluster: {plane.display_name} has no shared cluster, only")
    assert api.given.intake.jobs().total_records == 0


async def test_a_platform_that_is_not_known_is_told_what_is(api: Api) -> None:
    answer = await api.bearer().post("/data-planes", plane_body(platform={"type": "platform_abacus"}))

    assert "platform_aws, platform_snowflake" in answer.json()["detail"]


async def test_a_name_is_taken_within_a_company_alone(api: Api) -> None:
    body = plane_body(display_name="warehouse")

    answers = [
        (await api.bearer(company_id=company).post("/data-planes", body)).status_code
        for company in (1, FOREIGN_COMPANY, 1)
    ]

    assert answers == [201, 201, 409]


# --- seeing ----------------------------------------------------------------------------------------------------------


async def test_a_plane_is_seen_by_its_owner_and_by_whom_it_is_shared_with(api: Api) -> None:
    plane = api.plane_of(FOREIGN_COMPANY, collaborators=[COLLABORATOR])
    bearers = {company: api.bearer(company_id=company) for company in (FOREIGN_COMPANY, COLLABORATOR, 4)}

    listed = {
        company: [record["data_plane_id"] for record in (await bearer.get("/data-planes")).json()["records"]]
        for company, bearer in bearers.items()
    }
    shown = {company: (await bearer.get(plane_path(plane))).status_code for company, bearer in bearers.items()}

    ours = [str(plane.data_plane_id)]
    assert listed == {FOREIGN_COMPANY: ours, COLLABORATOR: ours, 4: []}
    assert shown == {FOREIGN_COMPANY: 200, COLLABORATOR: 200, 4: 404}


async def test_planes_are_listed_oldest_first(api: Api) -> None:
    names = ["b", "a", "c"]
    for name in names:
        api.given.clock.advance(1)
        api.plane_of(FOREIGN_COMPANY, display_name=name)

    listed = (await api.bearer(company_id=FOREIGN_COMPANY).get("/data-planes")).json()["records"]

    assert [record["display_name"] for record in listed] == names


# --- being heard of --------------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_kept_and_a_plane_that_sends_none_is_silent(api: Api) -> None:
    operator, path = api.process(), plane_path(api.given.plane)
    api.given.clock.advance(SILENT_AFTER_SECONDS)

    before = (await operator.get(path)).json()
    beat = (await operator.post(f"{path}/heartbeat")).json()
    api.given.clock.advance(SILENT_AFTER_SECONDS - 1)
    while_heard = (await operator.get(path)).json()
    api.given.clock.advance(1)
    after = (await operator.get(path)).json()

    assert (before["last_heartbeat_at"], before["silent"]) == (None, True)
    assert (beat["last_heartbeat_at"], beat["silent"]) == ("2026-03-01T12:00:30Z", False)
    assert [while_heard["silent"], after["silent"]] == [False, True]


async def test_the_given_planes_heartbeat_is_no_other_planes(api: Api) -> None:
    other = api.given.new_plane()

    await api.process().post(plane_path(api.given.plane, "/heartbeat"))

    assert (await api.bearer().get(plane_path(other))).json()["last_heartbeat_at"] is None


# --- archiving -------------------------------------------------------------------------------------------------------


async def test_an_archived_plane_takes_no_jobs_and_is_still_shown(api: Api) -> None:
    person, plane = api.bearer(), api.given.plane

    archived = await person.delete(plane_path(plane))
    again = await person.delete(plane_path(plane))
    submitted = await person.post("/jobs", submission(plane))

    assert (archived.status_code, archived.json()["status"]) == (200, "archived")
    assert again.json() == archived.json()
    assert (submitted.status_code, submitted.json()["type"]) == (409, "/problems/conflict")
    assert (await person.get(plane_path(plane))).json() == archived.json()


@pytest.mark.parametrize("state", ["pending", "running", "requested"])
async def test_a_plane_with_unfinished_jobs_is_not_archived(api: Api, state: str) -> None:
    getattr(api.given, state)()
    person, path = api.bearer(), plane_path(api.given.plane)

    answer = await person.delete(path)

    assert answer.status_code == 409
    assert (await person.get(path)).json()["status"] == "active"


async def test_a_plane_whose_jobs_have_ended_is_archived(api: Api) -> None:
    api.given.cancelled()
    api.given.failed()

    answer = await api.bearer().delete(plane_path(api.given.plane))

    assert answer.status_code == 200


async def test_only_the_owner_archives_a_plane(api: Api) -> None:
    plane = api.plane_of(FOREIGN_COMPANY, collaborators=[COLLABORATOR])

    answers = {
        company: (await api.bearer(company_id=company).delete(plane_path(plane))).status_code
        for company in (COLLABORATOR, 4, FOREIGN_COMPANY)
    }

    assert answers == {COLLABORATOR: 403, 4: 404, FOREIGN_COMPANY: 200}
