"""``countermand demo``: jobs meet their fates, and nothing of it is left behind."""

import json
import os
import pty
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.demonstrated import Demo, fates_of, interrupt, job_of, receipt_of
from tests.acceptance.site import until
from tests.acceptance.snowflake import settings_of
from tests.snowflake import SnowflakeDouble

#: By name: the job's type, its state, its outcome.
FATES = {
    "running": ("materialize-view", "cancelled", "stopped"),
    "pending": ("materialize-view", "cancelled", "never_started"),
    "asked_twice": ("materialize-view", "cancelled", "stopped"),
    "finished_first": ("materialize-view", "completed", None),
    "not_cancellable": ("datasets_deliver_data", "pending", None),
    "executor_killed": ("materialize-view", "cancelled", "stopped"),
    "engine_lies": ("materialize-view", "cancelled", "stopped"),
}
FATES_IN_SNOWFLAKE = {
    "snowflake_running": ("nql-forecast", "cancelled", "stopped"),
    "snowflake_lies": ("nql-forecast", "cancelled", "stopped"),
}
KEYS = ["name", "type", "expected_state", "state", "outcome", "request_to_ended_ms", "receipt"]
LIE_MS = 10_000
HOW_TO_ADD = "Without a Snowflake plane: install countermand[server,worker,embedded,snowflake] to add one"
OTHERS_WOULD = "others would say cancelled now"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def demo() -> Iterator[Demo]:
    with Demo.in_own_folder() as made:
        yield made


def test_from_a_checkout_nine_jobs_meet_their_fates_two_of_them_in_a_double_of_snowflake(
    demo: Demo,
) -> None:
    process = demo.start("--json")
    _, said = process.communicate(timeout=240)

    assert (process.returncode, said.decode()) == (0, "")
    told = json.loads(demo.output.read_text())  # the whole of stdout, and nothing else
    assert list(told) == ["snowflake", "jobs", "cpu", "ok"]
    assert (told["snowflake"], told["ok"]) == ("double", True)
    assert [list(job) for job in told["jobs"]] == [KEYS] * 9
    assert fates_of(told) == FATES | FATES_IN_SNOWFLAKE
    for job in told["jobs"]:
        assert job["expected_state"] == job["state"]
        assert (job["receipt"] is None) == (job["request_to_ended_ms"] is None) == (job["outcome"] is None)
    assert receipt_of(told, "pending")["closure"] == "never_claimed"
    assert receipt_of(told, "running")["engine_status"] == "INTERRUPT Error: Interrupted!"
    assert receipt_of(told, "executor_killed")["engine_status"] == "incarnation_ended"
    assert job_of(told, "engine_lies")["request_to_ended_ms"] > LIE_MS
    running, lies = receipt_of(told, "snowflake_running"), receipt_of(told, "snowflake_lies")
    assert (running["engine"], running["rung"] in (None, "ask")) == (
        "snowflake",
        True,
    )  # None: its executor was quicker
    assert (lies["engine"], lies["rung"]) == ("snowflake", "insist")
    assert "000604" in running["engine_status"]
    assert job_of(told, "snowflake_lies")["request_to_ended_ms"] > LIE_MS
    by_load = {load["of"]: load for load in told["cpu"]}
    assert set(by_load) == {"executor main", "executor killed", "executor liar", "the double"}
    assert by_load["executor main"]["running"] > 5 > by_load["executor main"]["after"]
    assert by_load["executor liar"]["told_to_stop"] > 5
    assert demo.children() == []
    assert demo.leavings() == set()


def test_as_installed_from_the_wheel_seven_jobs_meet_their_fates_and_it_says_how_to_add_snowflake(
    demo: Demo, full: Path
) -> None:
    process = demo.start(command=(full / "countermand",))
    _, said = process.communicate(timeout=240)

    assert (process.returncode, said.decode()) == (0, "")
    first, *lines = demo.output.read_text().splitlines()
    assert first.startswith(HOW_TO_ADD)
    receipts = [
        re.match(rf"({'|'.join(FATES)}) +({'|'.join({state for _, state, _ in FATES.values()})})", line)
        for line in lines
    ]
    assert [found.groups() for found in receipts if found] == [(name, state) for name, (_, state, _) in FATES.items()]
    assert lines[-1].startswith("All 7 jobs met their fates; readers find ")
    assert demo.children() == []
    assert demo.leavings() == set()


def test_on_a_terminal_a_table_shows_the_lie_while_it_lasts_and_sigterm_clears_everything_away(demo: Demo) -> None:
    ours, theirs = pty.openpty()
    process = demo.start(stdout=theirs)
    os.close(theirs)
    shown = ""

    while OTHERS_WOULD not in shown:  # bounded by the test's own time-out
        shown += os.read(ours, 65536).decode()

    frame = shown[shown.rindex("what happens to it") :]
    assert re.search(r"engine_lies.*pending_cancellation \(still_running\)", frame)
    draining = os.fdopen(ours, "rb", buffering=0)
    code, said = interrupt(process, signal.SIGTERM)
    draining.close()
    assert code == 130, said
    assert demo.children() == []
    assert demo.leavings() == set()


def test_elsewhere_it_prints_a_line_for_each_change_and_an_interrupt_clears_everything_away_in_an_account_too(
    demo: Demo, snowflake_double: SnowflakeDouble
) -> None:
    process = demo.start(settings=settings_of(snowflake_double))
    demo.until_printed("executor_killed   running")
    demo.until_printed("cancelled (never_started)")
    until(lambda: snowflake_double.state()["active"], seconds=90, what="the query")
    assert len(demo.children()) > 1

    code, said = interrupt(process, signal.SIGINT)

    assert (code, said.count("\n")) == (130, 1), said
    output = demo.output.read_text()
    assert output.startswith("The Snowflake plane is the account COUNTERMAND.\n")
    assert "\x1b" not in output
    assert re.search(r"^ *\d+\.\d s  pending +cancelled \(never_started\)", output, re.MULTILINE)
    assert "snowflake_lies" not in output
    assert snowflake_double.state()["active"] == []
    assert demo.children() == []
    assert demo.leavings() == set()


def test_when_a_fate_is_missed_it_exits_with_1_and_names_what_its_processes_said(demo: Demo) -> None:
    process = demo.start("--json")
    until(lambda: demo.victim() is not None, what="the canceller")
    victim = demo.victim()
    assert victim is not None
    victim.kill()

    _, said = process.communicate(timeout=240)

    assert process.returncode == 1
    told = json.loads(demo.output.read_text())
    assert told["ok"] is False
    assert "countermand demo: running: canceller ended by itself" in said.decode()
    (folder,) = re.findall(r"the logs of its processes are in (\S+)", said.decode())
    assert {path.name for path in Path(folder).iterdir()} == {
        f"{n}.log" for n in ("canceller", "double", "killed", "liar", "main", "server", "snowflake")
    }
    assert list(Path(folder).parent.iterdir()) == [Path(folder)]
    assert demo.children() == []
