"""The Spark that is started on this machine: where it is, and what is said where it is not."""

import re
import sys
from pathlib import Path

import pytest

from control_plane.errors import EngineUnavailable, Refused
from workers.demo.parts import parts
from workers.demo.programme import programme_on_spark
from workers.demo.spark_local import SPARK_VERSION, LocalSpark, spark_home

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that alone has packages."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return tmp_path


def test_the_whole_spark_is_found_by_its_jars(elsewhere: Path) -> None:
    (elsewhere / "pyspark" / "jars").mkdir(parents=True)
    (elsewhere / "pyspark" / "__init__.py").touch()

    assert spark_home() == elsewhere / "pyspark"


def test_without_spark_it_is_refused_by_what_to_install(elsewhere: Path) -> None:
    with pytest.raises(Refused, match=rf"^pyspark is not installed: .*'pyspark\[connect\]=={SPARK_VERSION}'"):
        spark_home()


def test_the_thin_client_alone_is_refused_by_what_to_install(elsewhere: Path) -> None:
    (elsewhere / "pyspark").mkdir()
    (elsewhere / "pyspark" / "__init__.py").touch()

    with pytest.raises(Refused, match=rf"^only Spark's thin client .*'pyspark\[connect\]=={SPARK_VERSION}'"):
        spark_home()


def test_the_version_that_is_named_is_the_one_that_is_tested() -> None:
    for file in ("pyproject.toml", "requirements.lock"):
        assert re.search(rf"\bpyspark(\[connect\])?=={re.escape(SPARK_VERSION)}\b", (ROOT / file).read_text()), file


def test_a_server_that_ends_before_it_answers_is_told_by_its_own_words(tmp_path: Path) -> None:
    with LocalSpark(tmp_path) as servers:
        servers.launch("first", "spark-class", "no.such.Class")

        with pytest.raises(EngineUnavailable, match=r"(?s)^Spark's first did not start: .*no\.such\.Class"):
            servers.told("first", "(never said)")

    assert not servers.is_up("first")
    assert not tmp_path.exists()


def test_on_spark_the_same_fates_are_met_on_each_cluster_but_for_the_lying_engine() -> None:
    names = [part.name for part in programme_on_spark().parts]

    embedded = {part.name for part in parts()} - {"engine_lies", "not_cancellable"}
    assert len(set(names)) == len(names) == 11
    assert set(names) == {f"{c}_{n}" for c in ("shared", "dedicated") for n in embedded} | {"not_cancellable"}
