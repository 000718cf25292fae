"""The page about jobs tells the truth: its table of types, its fields, and its examples."""

import json
import re
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from control_plane.errors import NotCancellable
from control_plane.inputs import INPUTS, RESULTS, check_input
from control_plane.jobs import JobType
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.work import Claim
from workers.engines.plans import TYPES, plan

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "jobs.md").read_text()
EXAMPLES = re.findall(r"--type (\S+) --input '(.+?)'$", PAGE, flags=re.DOTALL | re.MULTILINE)


def is_cancellable(platform: Platform, job_type: JobType) -> bool:
    try:
        Policy().check(platform, job_type)
    except NotCancellable:
        return False
    return True


def section(job_type: JobType) -> str:
    return PAGE.partition(f"\n## `{job_type.value}`\n")[2].partition("\n## ")[0]


def test_the_table_has_every_type_with_who_runs_it_and_where_it_can_be_cancelled() -> None:
    told = re.findall(r"^\| `([\w-]+)` \| (yes|no) \| (yes|no) \| (yes|no) \|$", PAGE, flags=re.MULTILINE)

    assert {(name, *(word == "yes" for word in words)) for name, *words in told} == {
        (kind.value, kind in TYPES, *(is_cancellable(platform, kind) for platform in Platform)) for kind in JobType
    }


@pytest.mark.parametrize("job_type", INPUTS, ids=str)
def test_every_field_of_an_input_and_of_a_result_is_described(job_type: JobType) -> None:
    fields = [*msgspec.structs.fields(INPUTS[job_type]), *msgspec.structs.fields(RESULTS[job_type])]

    assert [field.name for field in fields if f"`{field.name}`" not in section(job_type)] == []


def test_each_type_that_is_run_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == {kind.value for kind in TYPES}


@pytest.mark.parametrize(("name", "document"), EXAMPLES)
def test_an_example_is_accepted_and_can_be_run(name: str, document: str) -> None:
    accepted = check_input(JobType(name), json.loads(document))

    assert plan(Claim(uuid4(), JobType(name), accepted, "tag", uuid4(), 30.0), 0).sql
