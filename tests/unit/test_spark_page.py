"""The page about Spark tells the truth about jobs: its examples can be run there as they stand."""

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest

from control_plane.inputs import check_input
from control_plane.jobs import JobType
from control_plane.work import Claim
from workers.engines.spark_plans import plan

PAGE = (Path(__file__).parents[2] / "docs" / "spark.md").read_text()
IN_FILE = re.findall(
    r"^cat > job.json <<'END'\n(.+?)^END\n.* --type (\S+) .*--input @job.json$", PAGE, flags=re.DOTALL | re.MULTILINE
)
IN_PLACE = re.findall(r"--type (\S+) --execution-cluster \S+ --input '(.+?)'$", PAGE, flags=re.DOTALL | re.MULTILINE)
EXAMPLES = [(name, document) for document, name in IN_FILE] + IN_PLACE


def test_it_shows_how_a_job_is_written_that_leaves_something_and_one_that_does_not() -> None:
    assert [name for name, _ in EXAMPLES] == [JobType.MATERIALIZE_VIEW.value, JobType.NQL_FORECAST.value]


@pytest.mark.parametrize(("name", "document"), EXAMPLES)
def test_an_example_is_accepted_and_can_be_run(name: str, document: str) -> None:
    accepted = check_input(JobType(name), json.loads(document))

    planned = plan(Claim(uuid4(), JobType(name), accepted, "tag", uuid4(), 30.0), 0)

    assert accepted["compiled_sql"] in planned.query


def test_every_field_of_the_file_is_explained() -> None:
    [(document, _)] = IN_FILE

    assert [field for field in json.loads(document) if f"| `{field}` | " not in PAGE] == []
