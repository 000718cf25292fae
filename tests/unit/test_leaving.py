"""The process ends with its own exit code, and where Snowflake's connector is loaded its threads are left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: As the connector's threads would, in one run of ten: it aborts when the interpreter is taken down under it.
TAKEN_DOWN_BADLY = """
import atexit, os, sys, threading, time
from types import SimpleNamespace
from workers.cli.leaving import keep_exit_code

class Thread:
    def __del__(self, abort=os.abort):
        abort()

with keep_exit_code():
    if {loaded}:
        sys.modules["snowflake.connector"] = SimpleNamespace(thread=Thread())
    atexit.register(lambda: print("registered"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("awaited"))).start()
    {end}
"""


def ended(end: str, *, loaded: bool = True) -> subprocess.CompletedProcess[str]:
    program = TAKEN_DOWN_BADLY.format(end=end, loaded=loaded)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize(
    ("end", "code"), [("raise SystemExit(14)", 14), ("raise SystemExit", 0), ("raise OSError", 1), ("pass", 0)]
)
def test_the_exit_code_is_what_the_command_left_with(end: str, code: int, *, loaded: bool) -> None:
    assert ended(end, loaded=loaded).returncode == code


def test_threads_and_what_is_registered_for_the_end_have_their_turn_before() -> None:
    assert ended("raise SystemExit(0)").stdout.split() == ["awaited", "registered"]


def test_an_error_that_nobody_caught_is_told() -> None:
    assert "OSError: gone" in ended("raise OSError('gone')").stderr
