"""The page for people: it is there, and asks nobody else for anything."""

import re
from urllib.parse import urljoin

import httpx
import jsonschema_rs  # schemathesis brings it
import pytest

from control_plane.api.app import build_api
from control_plane.api.desk import Desk
from control_plane.api.fields import FIELDS
from control_plane.policy import Policy
from control_plane.store import Store
from tests.integration.api import called, describe, operations


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


DESCRIPTION = describe()
OPERATIONS = operations(DESCRIPTION)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_shows_a_body_and_an_answer_that_are_as_it_says(name: str) -> None:
    operation = OPERATIONS[name].description
    answer = next(operation["responses"][status] for status in ("200", "201") if status in operation["responses"])
    told = [
        kind for content in (operation.get("requestBody"), answer) if content for kind in content["content"].values()
    ]

    assert told

    for content in told:
        jsonschema_rs.validate(content["schema"] | {"components": DESCRIPTION["components"]}, content["example"])


def test_every_field_and_every_parameter_says_what_it_means() -> None:
    fields = {
        f"{kind}.{name}": field
        for kind, schema in DESCRIPTION["components"]["schemas"].items()
        for name, field in schema.get("properties", {}).items()
    }
    parameters = {
        f"{name} {parameter['name']}": parameter
        for name, operation in OPERATIONS.items()
        for parameter in operation.description.get("parameters", ())
    }

    assert [name for name, told in (fields | parameters).items() if not told.get("description")] == []


def test_no_meaning_is_told_of_a_field_that_there_is_not() -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    there = {name for schema in schemas.values() for name in schema.get("properties", {})}
    there |= {f"{kind}.{name}" for kind, schema in schemas.items() for name in schema.get("properties", {})}

    assert sorted(FIELDS.keys() - there) == []


def test_an_operations_summary_is_its_name_in_words() -> None:
    assert OPERATIONS["request_cancellation"].description["summary"] == "Request cancellation"
    assert OPERATIONS["list_job_events"].description["summary"] == "List job events"


@pytest.fixture
def http() -> httpx.AsyncClient:
    return called(build_api(Desk(Store("sqlite://"), Policy())))


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/docs", "/docs/"])
async def test_the_page_and_all_that_it_needs_come_from_this_server(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get(path)

    [base] = re.findall(r'<base href="([^"]+)">', page.text)
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text.replace(f'<base href="{base}">', ""))
    where = urljoin(f"http://countermand{path}", base)  # as a browser resolves them
    answers = {path: await http.get(urljoin(where, path)) for path in needed}
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert set(answers) >= {"openapi.json", "assets/swagger-ui/swagger-ui-bundle.js", "assets/docs.js"}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(needed, 200)
    # nowhere else, also behind a prefix
    assert not [path for path in (base, *needed) if ":" in path or path.startswith("/")]


@pytest.mark.anyio
async def test_there_is_one_description_wherever_it_is_looked_for(http: httpx.AsyncClient) -> None:
    below = await http.get("/docs/openapi.json")

    assert below.json() == DESCRIPTION


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/assets/swagger-ui/swagger-ui-bundle.js", "javascript"),
        ("/assets/swagger-ui/swagger-ui.css", "text/css"),
        ("/assets/docs.js", "javascript"),
    ],
)
async def test_an_asset_has_its_type(http: httpx.AsyncClient, path: str, kind: str) -> None:
    asset = await http.get(path)

    assert asset.status_code == 200
    assert kind in asset.headers["content-type"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/assets/../desk.py", "/assets/%2e%2e/desk.py", "/assets/nothing.js"])
async def test_nothing_but_the_assets_is_served(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404
