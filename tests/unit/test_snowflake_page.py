"""The page about Snowflake tells the truth about jobs: its examples can be run, and readers find what they wrote."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import QUERY_ID, Line
from adapters.snowflake.outputs import Output, Outputs
from control_plane.inputs import check_input
from control_plane.jobs import JobType
from control_plane.work import Claim
from workers.engines.snowflake_plans import plan

PAGE = (Path(__file__).parents[2] / "docs" / "snowflake.md").read_text()
EXAMPLES = re.findall(r"--type (\S+) --input '(.+?)'$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def outputs() -> Outputs:
    line = Line(
        Account(account="A", database="COUNTERMAND"),
        SignIn(user="EXECUTOR", token=SecretStr("t")),
        timeout_seconds=1.0,
        tag="t",
    )
    return Outputs(line, "COUNTERMAND")


def test_it_shows_how_a_job_is_written_that_leaves_something_and_one_that_does_not() -> None:
    assert {name for name, _ in EXAMPLES} == {JobType.MATERIALIZE_VIEW.value, JobType.NQL_FORECAST.value}


@pytest.mark.parametrize(("name", "document"), EXAMPLES)
def test_an_example_is_accepted_and_can_be_run(outputs: Outputs, name: str, document: str) -> None:
    accepted = check_input(JobType(name), json.loads(document))

    assert plan(Claim(uuid4(), JobType(name), accepted, "tag", uuid4(), 30.0), outputs, 0).sql


@pytest.mark.parametrize("of", [Output.of_view, Output.of_sample])
def test_readers_are_told_where_to_look(of: Callable[[UUID], Output]) -> None:
    assert f"| `{of(uuid4()).target(7)}` |" in PAGE


def test_a_forecast_reads_what_the_view_shows(outputs: Outputs) -> None:
    assert f"FROM {outputs.readers(7)} " in PAGE


def test_the_handle_of_a_tracked_query_has_the_form_of_a_query_id() -> None:
    [handle] = re.findall(r"--handle (\S+)", PAGE)

    assert QUERY_ID.fullmatch(handle)
