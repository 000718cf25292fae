"""What a line of the log looks like, for machines and for people."""

import io
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog

from config.logging import QUIET_LIBRARIES, change_level, configure_logging


class Stream(io.TextIOWrapper):
    """A standard stream in memory, that may claim to be a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.text.splitlines()]


@pytest.fixture(autouse=True)
def logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET_LIBRARIES}
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, earlier in levels.items():
        logging.getLogger(name).setLevel(earlier)


def test_a_line_is_json_when_nobody_watches() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    structlog.get_logger().info("cancellation_settled", rounds=2, job_id=UUID(int=7), who="Zoë")

    assert stream.text.endswith("\n")
    assert list(stream.events()[0]) == ["timestamp", "level", "event", "rounds", "job_id", "who"]
    assert stream.events()[0] | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "cancellation_settled",
        "rounds": 2,
        "job_id": str(UUID(int=7)),
        "who": "Zoë",
    }


def test_an_event_with_each_is_a_line_for_each() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    structlog.get_logger().info("cancellation_settled", worker="w", each=[{"rounds": 1}, {"rounds": 2}])

    moment = stream.events()[0]["timestamp"]
    common = {"timestamp": moment, "level": "info", "event": "cancellation_settled", "worker": "w"}
    assert stream.events() == [common | {"rounds": 1}, common | {"rounds": 2}]


def test_people_too_read_a_line_for_each() -> None:
    stream = Stream()
    configure_logging("info", "console", stream=stream)

    structlog.get_logger().info("cancellation_settled", each=[{"rounds": 1}, {"rounds": 2}])

    first, second = stream.text.splitlines()
    assert first.endswith("rounds=1")
    assert second.endswith("rounds=2")


def test_the_moment_is_iso_in_utc() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    before = datetime.now(UTC)
    structlog.get_logger().info("claimed")

    written = stream.events()[0]["timestamp"]
    assert written.endswith("Z")
    assert before <= datetime.fromisoformat(written) <= datetime.now(UTC)


def test_a_line_is_for_people_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Stream(terminal=True)
    configure_logging(stream=stream)

    structlog.get_logger().info("cancellation_settled", rounds=2)

    assert "\x1b[" in stream.text
    assert not stream.text.startswith("{")
    assert "cancellation_settled" in stream.text


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Stream(terminal=True)
    configure_logging(stream=stream)

    structlog.get_logger().info("cancellation_settled", rounds=2)

    assert "\x1b[" not in stream.text


@pytest.mark.parametrize(("log_format", "terminal", "as_json"), [("json", True, True), ("console", False, False)])
def test_the_format_can_be_forced(log_format: Any, terminal: bool, as_json: bool) -> None:
    stream = Stream(terminal=terminal)
    configure_logging("info", log_format, stream=stream)

    structlog.get_logger().info("claimed")

    assert stream.text.startswith("{") == as_json


def test_what_is_bound_to_the_context_is_on_the_line() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    with structlog.contextvars.bound_contextvars(plane="narrative-1"):
        structlog.get_logger().bind(worker="w").info("claimed")

    assert stream.events()[0]["plane"] == "narrative-1"
    assert stream.events()[0]["worker"] == "w"


def test_events_below_the_level_are_dropped() -> None:
    stream = Stream()
    configure_logging("warning", stream=stream)

    structlog.get_logger().info("claimed")
    logging.getLogger("some.library").info("hello")

    assert stream.text == ""


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_a_library_that_repeats_what_it_raises_is_silent(level: str) -> None:
    stream = Stream()
    configure_logging(level, stream=stream)

    logging.getLogger("snowflake.connector._core").error("Snowflake login failed")

    assert stream.text == ""


def test_a_library_logs_in_the_same_form() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    logging.getLogger("some.library").warning("%s is late", "lunch")

    event = stream.events()[0]
    assert event | {"timestamp": ""} == {
        "timestamp": "",
        "level": "warning",
        "event": "lunch is late",
        "logger": "some.library",
    }


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_library_says_something_on_a_terminal_and_elsewhere(log_format: Any) -> None:
    stream = Stream()
    configure_logging("info", log_format, stream=stream)

    logging.getLogger("some.library").error("lunch is late")

    assert "lunch is late" in stream.text


def test_transitions_does_not_tell_every_move() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    logging.getLogger("transitions.core").info("Executed callback before conditions.")

    assert stream.text == ""


@pytest.mark.filterwarnings("always")
def test_a_warning_is_a_line_too() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert stream.events()[0]["logger"] == "py.warnings"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_values(log_format: Any) -> None:
    stream = Stream()
    configure_logging("info", log_format, stream=stream)

    def fail(password: str) -> None:
        raise ValueError(len(password))

    try:
        fail("hunter" + "2")
    except ValueError:
        structlog.get_logger().exception("worker_failed")

    assert "Traceback" in stream.text
    assert "hunter2" not in stream.text


def test_a_traceback_is_on_the_one_json_line() -> None:
    stream = Stream()
    configure_logging(stream=stream)

    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger().exception("worker_failed")

    (event,) = stream.events()
    assert event["level"] == "error"
    assert event["exception"].endswith("ValueError: no")


@pytest.mark.parametrize("value", [object(), 1 << 200, float("nan"), "\udc80", {("a", "b"): 1}, {1, 2}])
def test_a_value_that_json_lacks_still_gives_one_line(value: object) -> None:
    stream = Stream()
    configure_logging(stream=stream)

    structlog.get_logger().info("claimed", value=value)

    (event,) = stream.events()
    assert event["event"].strip("'") == "claimed"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_level_of_a_running_process_can_be_changed(log_format: Any) -> None:
    stream = Stream()
    configure_logging("warning", log_format, stream=stream)
    logger, library = structlog.get_logger(), logging.getLogger("some.library")

    logger.info("too early")
    change_level("debug")
    logger.debug("claimed")
    library.debug("said")
    logging.getLogger("httpx").info("too much")
    change_level("error")
    logger.warning("too late")
    library.warning("too late")

    assert [word for word in ("claimed", "said", "too") if word in stream.text] == ["claimed", "said"]
