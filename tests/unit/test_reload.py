"""What a running process takes over from its settings, read anew, and what waits for its next start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from config.names import ANY, field_names
from config.reload import LIVE, reload_settings
from config.settings import Settings, SettingsError, load_settings

WriteFile = Callable[[str], Path]
TOP = 'control_plane = "https://control.example"\n'
NORTH = '[worker.planes.north]\ntoken_file = "/north"\n'


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return path

    return write


def test_limits_and_the_level_of_the_log_count_at_once(write_file: WriteFile) -> None:
    settings = load_settings(write_file(f"{TOP}{NORTH}max_in_flight = 1\n[worker]\nbatch_size = 7"))
    limits = "batch_size = 8\nbatches_in_flight = 2\nmax_in_flight = 9\nstops_per_second = 4.5\ndrain_seconds = 1"
    write_file(
        f'{TOP}log_level = "debug"\n{NORTH}stops_per_second = 2\n[worker]\n{limits}\n'
        "[executor]\nslots = 2\ndrain_seconds = 3"
    )

    found, changed, at_restart = reload_settings(settings)

    worker, north = found.worker, found.worker.planes["north"]
    assert found.log_level == "debug"
    assert (worker.batch_size, worker.batches_in_flight, worker.max_in_flight) == (8, 2, 9)
    assert (worker.stops_per_second, worker.drain_seconds) == (4.5, 1.0)
    assert (north.max_in_flight, north.stops_per_second) == (None, 2.0)
    assert (found.executor.slots, found.executor.drain_seconds) == (2, 3.0)
    assert set(changed) == {".".join(place).replace(ANY, "north") for place in LIVE}
    assert at_restart == ()


def test_all_else_waits_for_the_next_start_and_is_named_until_then(write_file: WriteFile) -> None:
    settings = load_settings(write_file(f"{TOP}{NORTH}[worker.planes.west]\ntoken_file = '/w'"))
    write_file(
        f'{TOP}url = "http://other"\n[worker]\nlease_seconds = 60\nbatch_size = 8\n'
        '[worker.planes.north]\ntoken = "s3cret"\nsnowflake.account = "o-a"\nmax_in_flight = 3\n'
        '[worker.planes."south pole"]\ntoken = "s3same"\n[policy.overrides]\nplatform_aws = []\n'
    )

    first = reload_settings(settings)
    second = reload_settings(first.settings)

    assert first.changed == ("worker.batch_size", "worker.planes.north.max_in_flight")
    assert second.changed == ()
    assert first.at_restart == (
        "url",
        "worker.lease_seconds",
        "worker.planes.north.token",
        "worker.planes.north.token_file",
        "worker.planes.north.snowflake",
        "worker.planes.west",
        'worker.planes."south pole"',
        "policy.overrides",
    )
    assert second == (first.settings, (), first.at_restart)
    assert first.settings.worker.planes.keys() == {"north", "west"}
    assert (first.settings.url, first.settings.worker.lease_seconds) == (settings.url, 30.0)
    assert first.settings.worker.planes["north"].token_file == Path("/north")
    assert "s3" not in f"{first}"


def test_nothing_changes_where_nothing_has_changed(write_file: WriteFile) -> None:
    settings = load_settings(write_file(f"{TOP}{NORTH}"))

    assert reload_settings(settings) == (settings, (), ())


def test_options_and_the_environment_still_win(write_file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_WORKER__BATCH_SIZE", "5")
    options = {"log_level": "warning", "worker": {"drain_seconds": 2.0, "name": None}}
    settings = load_settings(write_file(""), **options)
    write_file('log_level = "debug"\n[worker]\ndrain_seconds = 1\nbatch_size = 6\nbatches_in_flight = 1')

    found, changed, _ = reload_settings(settings, **options)

    assert (found.log_level, found.worker.drain_seconds, found.worker.batch_size) == ("warning", 2.0, 5)
    assert changed == ("worker.batches_in_flight",)


@pytest.mark.parametrize("text", ["[worker", "worker.batch_size = 0", 'profile = "p"', None])
def test_a_file_that_is_wrong_or_gone_is_refused(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "countermand").mkdir()
    file = tmp_path / "countermand" / "config.toml"  # the user's own, which nothing names
    file.write_text("worker.batch_size = 5")
    settings = load_settings()
    file.unlink() if text is None else file.write_text(text)

    with pytest.raises(SettingsError, match=str(file)):
        reload_settings(settings)

    assert settings.worker.batch_size == 5


def test_what_counts_at_once_are_settings() -> None:
    assert [place for place in LIVE if ".".join(place) not in set(field_names(Settings))] == []
