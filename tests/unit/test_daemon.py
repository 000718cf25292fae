"""What a long-running process does on SIGHUP."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
import structlog
from config.logging import configure_logging
from workers.clock import Clock
from control_plane.work import News
from workers.daemon import Daemon

log = structlog.get_logger()

async def main():
    daemon, wake = Daemon(Clock()), asyncio.Event()
    async def work():
        log.info("began")
        while not daemon.stopping.is_set():
            await wake.wait()
            wake.clear()
        log.info("ended")
    {reload}
    await daemon.run(work(), duties=[], woken={{News.CANCELLATIONS: wake}}, reload=reload)

configure_logging("info", "json")
asyncio.run(main())
"""


class Process(NamedTuple):
    """A daemon, and the lines of its log."""

    process: "subprocess.Popen[str]"

    def event(self) -> dict[str, Any]:
        """The next line; waits for it."""
        assert self.process.stderr is not None
        line: dict[str, Any] = json.loads(self.process.stderr.readline())
        return line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running(reload: str) -> Iterator[Process]:
    program = PROGRAM.format(reload=reload)
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            daemon = Process(process)
            assert daemon.event()["event"] == "began"
            yield daemon
        finally:
            process.kill()


@pytest.fixture
def hang_up() -> Callable[[Process], dict[str, Any]]:
    """Sends SIGHUP; gives the line that it is answered by."""

    def send(daemon: Process) -> dict[str, Any]:
        daemon.process.send_signal(signal.SIGHUP)
        return daemon.event()

    return send


def test_a_hang_up_reloads_in_the_loop_each_time_and_ends_nothing(
    hang_up: Callable[[Process], dict[str, Any]],
) -> None:
    with running("reload = lambda: log.info('reloaded', loop=asyncio.get_running_loop().is_running())") as daemon:
        answers = [hang_up(daemon) for _ in range(3)]
        ended = daemon.stop()

    assert [(answer["event"], answer["loop"]) for answer in answers] == [("reloaded", True)] * 3
    assert ended == 0


def test_whatever_a_reload_raises_is_logged_and_ends_nothing(hang_up: Callable[[Process], dict[str, Any]]) -> None:
    with running("reload = lambda: 1 / 0") as daemon:
        answers = [hang_up(daemon) for _ in range(2)]
        ended = daemon.stop()

    assert [(answer["event"], answer["level"]) for answer in answers] == [("reload_failed", "error")] * 2
    assert "ZeroDivisionError" in answers[0]["exception"]
    assert ended == 0


def test_a_daemon_that_cannot_reload_says_so_and_goes_on(hang_up: Callable[[Process], dict[str, Any]]) -> None:
    with running("reload = None") as daemon:
        answer = hang_up(daemon)
        ended = daemon.stop()

    assert (answer["event"], answer["signal"]) == ("reload_not_supported", "SIGHUP")
    assert ended == 0


def test_a_hang_up_after_the_drain_does_not_change_how_it_ends(
    hang_up: Callable[[Process], dict[str, Any]],
) -> None:
    last = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGHUP); reload = None"

    with running(last) as daemon:
        ended = daemon.stop()

    assert ended == 0
