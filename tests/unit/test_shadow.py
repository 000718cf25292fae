"""Start-up says when another package took one of our generic names."""

import sys
from pathlib import Path

import pytest

from workers.shadow import OUR_FOLDER, describe_shadowing


def test_nothing_is_said_where_the_packages_are_ours() -> None:
    assert describe_shadowing() is None


@pytest.mark.parametrize("name", ["adapters", "config", "control_plane", "workers"])
@pytest.mark.parametrize("form", ["{}/__init__.py", "{}.py"])
def test_a_package_found_before_ours_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, form: str
) -> None:
    foreign = tmp_path / form.format(name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise AssertionError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    said = describe_shadowing()

    assert said == (
        f"The package {name!r} in {tmp_path} shadows Countermand's own in {OUR_FOLDER}: "
        "install Countermand into an environment of its own, for example with pipx."
    )


def test_a_package_that_comes_after_ours_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.py").touch()
    monkeypatch.setattr(sys, "path", [str(OUR_FOLDER), *sys.path, str(tmp_path)])

    assert describe_shadowing() is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    assert (
        describe_shadowing()
        == f"Countermand's package 'adapters' is missing in {OUR_FOLDER}: install Countermand anew."
    )
