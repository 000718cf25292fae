"""What a standalone master may say, and what cannot be concluded from it: scripted, as a real one seldom misbehaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from adapters.base import Run, RunStatus, StopAnswer
from adapters.narrative.spark_standalone import SparkStandaloneAdapter
from adapters.narrative.spark_standalone_line import ENGINE, MasterError, MasterLine
from adapters.narrative.spark_standalone_scripts import Folder
from control_plane.errors import Conflict
from control_plane.jobs import Handle, Rung, Waiting
from control_plane.work import Work
from tests.doubles.misbehaving_server import Act, MisbehavingServer, answer, misbehaving
from tests.narrative import PLANE, named_work, until, view_of
from workers.engines.base import NotStarted
from workers.engines.spark_standalone import SparkStandaloneEngine

DRIVER = "driver-20260131120000-0007"
NOWHERE = "http://127.0.0.1:1"
SQL = "SELECT id FROM range(3)"
#: Where no time-out is what is tried, a slow machine meets none.
PATIENCE_SECONDS = 60.0
SILENT = (Act.HANG, Act.DRIP)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


def told(**fields: Any) -> bytes:
    """An answer of the protocol."""
    return answer("200 OK", json.dumps({"serverSparkVersion": "4.3.0", **fields}), Date="Sat, 31 Jan 2026 12:00:09 GMT")


def status(state: str | None, message: str | None = None, *, driver: str = DRIVER) -> bytes:
    """What a master says of a driver; without a state it does not know it."""
    known = {"driverState": state} if state else {}
    return told(
        action="SubmissionStatusResponse", submissionId=driver, success=state is not None, message=message, **known
    )


def killed(success: bool) -> bytes:
    """What a master says to a kill."""
    return told(action="KillSubmissionResponse", submissionId=DRIVER, success=success, message="as it may be")


CREATED = told(action="CreateSubmissionResponse", submissionId=DRIVER, success=True, message="Driver submitted")
STANDBY = told(action="CreateSubmissionResponse", success=False, message="Can only accept submissions in ALIVE state")
NOBODY = told(action="KillSubmissionResponse", success=False, message="Driver driver-of-nobody does not exist")
WORKERS = '{"workers": [{"webuiaddress": "%s", "state": "ALIVE"}, {"webuiaddress": "http://gone", "state": "DEAD"}]}'
EXECUTORS = '{"executors": [{"id": "0", "appid": "app-1", "appdesc": {"name": "%s"}}]}'
APPS = '{"activeapps": [{"id": "app-1", "name": "%s"}]}'
#: Whatever a master's web UI is asked.
NOTHING_RUNS = answer("200 OK", '{"status": "ALIVE", "workers": [], "activeapps": []}')
NO_APPS, NO_WORKERS = answer("200 OK", '{"activeapps": []}'), answer("200 OK", '{"workers": [], "activeapps": []}')


@asynccontextmanager
async def speaking_to(url: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[MasterLine]:
    line = MasterLine(url, timeout_seconds=timeout_seconds, ui_url=NOWHERE)
    yield line
    await line.aclose()


@asynccontextmanager
async def adapter_to(
    master: MisbehavingServer | None,
    warehouse: Path,
    *,
    ui: MisbehavingServer | None = None,
    timeout_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator[SparkStandaloneAdapter]:
    with misbehaving(NOTHING_RUNS) as idle:
        adapter = SparkStandaloneAdapter(
            master.url if master else NOWHERE,
            warehouse,
            installation="tests",
            data_plane_id=PLANE,
            timeout_seconds=timeout_seconds,
            ui_url=(ui or idle).url,
        )
        yield adapter
        await adapter.aclose()


@asynccontextmanager
async def engine_to(
    master_url: str, warehouse: Path, *, ui: MisbehavingServer | None = None
) -> AsyncIterator[SparkStandaloneEngine]:
    with misbehaving(NOTHING_RUNS) as idle:
        line = MasterLine(master_url, timeout_seconds=PATIENCE_SECONDS, ui_url=(ui or idle).url)
        name = Folder(warehouse).name()
        engine = SparkStandaloneEngine(line, warehouse, incarnation=name, timeout_seconds=PATIENCE_SECONDS)
        yield engine
        await engine.aclose()


def with_handle(warehouse: Path) -> Work:
    """A job whose driver is recorded."""
    return structs.replace(named_work(), handle=Handle(ENGINE, Folder(warehouse).name(), DRIVER))


def begun_log(warehouse: Path, tag: str) -> Path:
    """The event log of an application that runs in the driver."""
    folder = Folder(warehouse)
    folder.begin(tag, SQL)
    log = folder.events(tag) / "app-20260131120001-0003.inprogress"
    log.write_text(
        json.dumps({"Event": "SparkListenerEnvironmentUpdate", "System Properties": {"user.dir": f"/{DRIVER}"}})
    )
    return log


def executor_added(executor: str, worker_url: str) -> str:
    """What an event log says of an executor that has begun on this worker."""
    logs = {"stdout": f"{worker_url}/logPage/?appId=app-1&executorId={executor}&logType=stdout"}
    about = {"Log Urls": logs}
    return json.dumps({"Event": "SparkListenerExecutorAdded", "Executor ID": executor, "Executor Info": about})


def executor_removed(executor: str) -> str:
    """And of one that the application has lost."""
    return json.dumps({"Event": "SparkListenerExecutorRemoved", "Executor ID": executor})


# --- the line


@pytest.mark.parametrize(
    ("act", "waiting", "sentence"),
    [
        (Act.DROP, Waiting.PLANE_SILENT, "cannot be reached"),
        (Act.HANG, Waiting.PLANE_SILENT, "did not answer within 0.2 s"),
        (Act.DRIP, Waiting.PLANE_SILENT, "did not answer within 0.2 s"),
        (answer("500 Internal Server Error", "{}"), Waiting.PLANE_SILENT, "500: Internal Server Error"),
        (answer("403 Forbidden", "no"), Waiting.NOT_PERMITTED, "403: Forbidden"),
        (answer("401 Unauthorized", ""), Waiting.NOT_PERMITTED, "401"),
        (answer("404 Not Found", '{"message": "Unknown path\\n\\tat x"}'), Waiting.ADAPTER_ERROR, "404: Unknown path"),
        (answer("200 OK", "<html>a proxy</html>", "text/html"), Waiting.ADAPTER_ERROR, "something else"),
        (answer("200 OK", '{"success": "yes"}'), Waiting.ADAPTER_ERROR, "something else"),
        (status("RUNNING", driver="driver-of-another"), Waiting.ADAPTER_ERROR, "asked about"),
    ],
)
async def test_an_answer_that_proves_nothing_is_an_error_with_its_reason(
    act: bytes | Act, waiting: Waiting, sentence: str
) -> None:
    timeout_seconds = 0.2 if act in SILENT else PATIENCE_SECONDS
    with misbehaving(act) as server:
        async with speaking_to(server.url, timeout_seconds=timeout_seconds) as line:
            with pytest.raises(MasterError) as raised:
                await line.fate(DRIVER)

    assert raised.value.trouble.waiting is waiting
    assert sentence in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (status("SUBMITTED"), RunStatus.ACTIVE),
        (status("RUNNING"), RunStatus.ACTIVE),
        (status("RELAUNCHING"), RunStatus.ACTIVE),
        (status("FINISHED"), RunStatus.SUCCEEDED),
        (status("FAILED"), RunStatus.ERRORED),
        (status("KILLED"), RunStatus.STOPPED),
        (status("ERROR", "Exception from the cluster:\nno such file"), RunStatus.ERRORED),
        (status("ERROR"), RunStatus.UNKNOWN),
        (status("UNKNOWN"), RunStatus.UNKNOWN),
        (status("NOT_FOUND"), RunStatus.UNKNOWN),
        (status("SOMETHING_NEW"), RunStatus.UNKNOWN),
        (status(None), RunStatus.UNKNOWN),
        (told(submissionId=DRIVER, success=False, driverState="KILLED"), RunStatus.UNKNOWN),
    ],
)
async def test_only_a_driver_state_that_the_master_vouches_for_is_an_end(said: bytes, expected: RunStatus) -> None:
    """ERROR without an exception: its worker was lost, and it may run on there."""
    with misbehaving(said) as server:
        async with speaking_to(server.url) as line:
            fate = await line.fate(DRIVER)

    assert fate.run_status is expected
    assert fate.word


async def test_what_is_no_drivers_id_never_enters_a_url() -> None:
    with misbehaving(status("RUNNING")) as server:
        async with speaking_to(server.url) as line:
            fates = await line.fates(["../create", "", "a b", "x?y", DRIVER])

    assert list(fates) == [DRIVER]
    assert len(server.requests) == 1


async def test_a_token_is_shown_to_the_master() -> None:
    with misbehaving(status("RUNNING")) as server:
        line = MasterLine(server.url, timeout_seconds=PATIENCE_SECONDS, ui_url=NOWHERE, token="the-token")
        await line.fate(DRIVER)
        await line.aclose()

    assert b"bearer the-token" in server.requests[0].lower()


HTML = answer("200 OK", "<!DOCTYPE html><html>", "text/html")
NO_POST = answer("405 Method Not Allowed", "<html>", "text/html")
#: As Spark 4.3.0's REST server answers whoever takes it for the web UI.
NO_UI = answer("468 468", '{"message": "Unknown protocol version \'json\'.", "serverSparkVersion": "4.3.0"}')
ALIVE = answer("200 OK", '{"status": "ALIVE"}')


@pytest.mark.parametrize("act", [Act.DROP, HTML, NO_POST, answer("404 Not Found"), answer("302 Found")])
async def test_where_no_rest_server_answers_the_setting_is_named_and_how_a_master_comes_to_have_one(
    act: bytes | Act,
) -> None:
    with misbehaving(act) as server:
        async with speaking_to(server.url) as line:
            with pytest.raises(MasterError) as raised:
                await line.try_orders()

    assert raised.value.message.startswith(f"the Spark master at {server.url} ")
    assert "master_url in [spark] has to be where" in raised.value.message
    assert "port 6066 by default, and there is none without spark.master.rest.enabled=true" in raised.value.message


@pytest.mark.parametrize("status_line", ["401 Unauthorized", "403 Forbidden"])
async def test_a_master_that_takes_no_such_token_is_told_by_the_tokens_setting(status_line: str) -> None:
    with misbehaving(answer(status_line)) as server:
        async with speaking_to(server.url) as line:
            with pytest.raises(MasterError) as raised:
                await line.try_orders()

    assert "master_token in [spark] has to be one that its filters take" in raised.value.message
    assert "master_url" not in raised.value.message


async def test_what_is_wrong_with_a_submission_is_not_blamed_on_the_setting() -> None:
    with misbehaving(answer("400 Bad Request", '{"message": "Malformed request"}')) as server:
        async with speaking_to(server.url) as line:
            with pytest.raises(MasterError) as raised:
                await line.submit({})

    assert raised.value.message == f"the Spark master at {server.url} answered 400: Malformed request"


@pytest.mark.parametrize("act", [Act.DROP, HTML, NO_UI, answer("404 Not Found"), answer("302 Found")])
async def test_where_no_web_ui_of_a_master_answers_its_own_setting_is_named(act: bytes | Act) -> None:
    with misbehaving(act) as ui:
        line = MasterLine(NOWHERE, timeout_seconds=PATIENCE_SECONDS, ui_url=ui.url)
        with pytest.raises(MasterError) as raised:
            await line.with_executors({"mine"})
        await line.aclose()

    assert raised.value.message.startswith(f"the Spark master's web UI at {ui.url} ")
    assert "master_ui_url in [spark] has to be where" in raised.value.message
    assert "master_url" not in raised.value.message


async def test_of_a_worker_that_cannot_be_asked_no_setting_is_named() -> None:
    with misbehaving(answer("200 OK", APPS % ""), answer("200 OK", WORKERS % NOWHERE)) as ui:
        line = MasterLine(NOWHERE, timeout_seconds=PATIENCE_SECONDS, ui_url=ui.url)
        with pytest.raises(MasterError) as raised:
            await line.with_executors({"mine"})
        await line.aclose()

    assert raised.value.message.startswith(f"the web UI of a Spark worker at {NOWHERE} cannot be reached")
    assert "in [spark]" not in raised.value.message


# --- the adapter


async def test_a_master_that_was_started_again_and_forgot_the_driver_proves_no_end(tmp_path: Path) -> None:
    work = with_handle(tmp_path)
    with misbehaving(status(None), status(None), killed(False), status(None)) as server:
        async with adapter_to(server, tmp_path) as adapter:
            [run] = (await adapter.find([work]))[work.job_id].runs
            seen = (await adapter.observe([run]))[run.handle]
            answers = await adapter.stop([run], Rung.ASK)

    assert (run.status, seen.status) == (RunStatus.UNKNOWN, RunStatus.UNKNOWN)
    assert run.word == "not known to the master"
    assert answers == {run.handle: StopAnswer.UNREACHABLE}


async def test_an_application_is_looked_at_ten_times_a_second_at_most(tmp_path: Path) -> None:
    """More often, the looks kept the master's machine from ending it: by a fifth, measured on two cores."""
    work = with_handle(tmp_path)
    with misbehaving(status("RUNNING")) as server:
        async with adapter_to(server, tmp_path) as adapter:
            listing = (await adapter.find([work]))[work.job_id]

    assert listing.runs[0].status is RunStatus.ACTIVE
    assert listing.again_seconds >= 0.1


@pytest.mark.parametrize("said", [status(None), status("ERROR")])
async def test_where_the_master_cannot_say_the_applications_own_word_is_an_end(tmp_path: Path, said: bytes) -> None:
    work = with_handle(tmp_path)
    log = begun_log(tmp_path, work.tag)
    with misbehaving(said) as server:
        async with adapter_to(server, tmp_path) as adapter:
            [before] = (await adapter.find([work]))[work.job_id].runs
            log.rename(log.with_suffix(""))
            seen = (await adapter.observe([before]))[before.handle]
            [after] = (await adapter.find([work]))[work.job_id].runs

    assert before.status is RunStatus.UNKNOWN
    assert (after.status, after.word) == (RunStatus.STOPPED, f"{before.word}; its event log has ended")
    assert seen == after


async def test_what_told_its_own_end_has_not_ended_while_a_worker_has_executors_of_it(
    tmp_path: Path,
) -> None:
    """A master that was started again knows of none of them."""
    work = with_handle(tmp_path)
    log = begun_log(tmp_path, work.tag)
    log.rename(log.with_suffix(""))
    nobodys = answer("200 OK", '{"activeapps": []}')
    executors = [answer("200 OK", EXECUTORS % name) for name in (work.tag, work.tag + "s")]
    with misbehaving(status(None)) as server, misbehaving(*executors) as worker:
        workers = answer("200 OK", WORKERS % worker.url)
        with misbehaving(nobodys, workers, nobodys, workers, nobodys, answer("500 No")) as ui:
            async with adapter_to(server, tmp_path, ui=ui) as adapter:
                [[first], [second]] = [(await adapter.find([work]))[work.job_id].runs for _ in range(2)]
                unseen = (await adapter.find([work]))[work.job_id]

    assert (first.status, second.status) == (RunStatus.ACTIVE, RunStatus.STOPPED)
    assert first.word == "not known to the master; its event log has ended, and its executors are ending"
    assert not unseen.complete


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([killed(True)], StopAnswer.ACCEPTED),
        ([killed(False), status("KILLED")], StopAnswer.ALREADY_ENDED),
        ([killed(False), status("FINISHED")], StopAnswer.ALREADY_ENDED),
        ([killed(False), status("RUNNING")], StopAnswer.UNREACHABLE),  # it does not lead, or recovers
        ([killed(False), status("ERROR")], StopAnswer.UNREACHABLE),
        ([answer("403 Forbidden")], StopAnswer.NOT_PERMITTED),
        ([Act.HANG], StopAnswer.UNREACHABLE),
        ([killed(False), Act.DROP], StopAnswer.UNREACHABLE),
    ],
)
async def test_a_refused_kill_is_told_apart_by_the_drivers_state(
    tmp_path: Path, script: list[bytes | Act], expected: StopAnswer
) -> None:
    run = Run(PLANE, "", Handle(ENGINE, Folder(tmp_path).name(), DRIVER), RunStatus.ACTIVE)
    timeout_seconds = 0.5 if script == [Act.HANG] else PATIENCE_SECONDS
    with misbehaving(*script) as server:
        async with adapter_to(server, tmp_path, timeout_seconds=timeout_seconds) as adapter:
            answers = await adapter.stop([run], Rung.FORCE)

    assert answers == {run.handle: expected}


async def test_a_driver_has_not_ended_while_executors_of_it_are_left(tmp_path: Path) -> None:
    work = with_handle(tmp_path)
    apps = [answer("200 OK", APPS % name) for name in (work.tag, work.tag + "s")]
    with misbehaving(status("KILLED")) as server, misbehaving(*apps, NO_WORKERS) as ui:
        async with adapter_to(server, tmp_path, ui=ui) as adapter:
            [[first], [second]] = [(await adapter.find([work]))[work.job_id].runs for _ in range(2)]

    assert (first.status, first.ended_at) == (RunStatus.ACTIVE, None)
    assert first.word == "KILLED, and its executors are ending"
    assert (second.status, second.word) == (RunStatus.STOPPED, "KILLED")
    assert second.ended_at is not None


async def test_a_driver_has_not_ended_while_a_worker_has_executors_of_it_that_the_master_has_forgotten(
    tmp_path: Path,
) -> None:
    """The master drops an application as soon as its driver is gone; its workers may take ten seconds to end it."""
    work = with_handle(tmp_path)
    executors = [answer("200 OK", EXECUTORS % name) for name in (work.tag, work.tag + "s")]
    with misbehaving(status("KILLED")) as server, misbehaving(*executors) as worker:
        workers = answer("200 OK", WORKERS % worker.url)
        with misbehaving(NO_APPS, workers, NO_APPS, workers) as ui:
            async with adapter_to(server, tmp_path, ui=ui) as adapter:
                [[first], [second]] = [(await adapter.find([work]))[work.job_id].runs for _ in range(2)]

    assert (first.status, first.ended_at) == (RunStatus.ACTIVE, None)
    assert first.word == "KILLED, and its executors are ending"
    assert (second.status, second.word) == (RunStatus.STOPPED, "KILLED")


async def test_an_executors_job_has_not_ended_while_a_worker_has_executors_of_it(tmp_path: Path) -> None:
    claim = view_of(SQL)
    executors = [answer("200 OK", EXECUTORS % name) for name in (claim.tag, claim.tag + "s")]
    with misbehaving(CREATED, status("KILLED")) as server, misbehaving(*executors) as worker:
        workers = answer("200 OK", WORKERS % worker.url)
        with misbehaving(NO_APPS, workers, NO_APPS, workers) as ui:
            async with engine_to(server.url, tmp_path, ui=ui) as engine:
                await engine.follow(await engine.start(claim, lambda: 30.0))

    assert len(worker.requests) == 2


async def test_a_new_master_that_has_no_workers_yet_does_not_hide_the_executors_that_the_event_log_tells_of(
    tmp_path: Path,
) -> None:
    """Workers come back to a master that was started again after seconds, and until then it lists none."""
    work = with_handle(tmp_path)
    log = begun_log(tmp_path, work.tag)
    log.rename(log.with_suffix(""))
    executors = [answer("200 OK", EXECUTORS % name) for name in (work.tag, work.tag + "s")]
    with misbehaving(status(None)) as server, misbehaving(*executors, Act.DROP) as worker:
        with log.with_suffix("").open("a") as out:
            out.write(f"\n{executor_added('0', worker.url)}\n{executor_added('1', NOWHERE)}\n{executor_removed('1')}")
        with misbehaving(NO_APPS, NO_WORKERS, NO_APPS, NO_WORKERS, NO_APPS, NO_WORKERS) as ui:
            async with adapter_to(server, tmp_path, ui=ui) as adapter:
                first, second, unseen = [(await adapter.find([work]))[work.job_id] for _ in range(3)]

    assert [run.status for run in first.runs] == [RunStatus.ACTIVE]
    assert [run.status for run in second.runs] == [RunStatus.STOPPED]
    assert not unseen.complete
    assert unseen.trouble is not None
    assert worker.url in unseen.trouble.detail


async def test_a_second_driver_that_the_master_knows_does_not_hide_the_executors_of_the_first(tmp_path: Path) -> None:
    """A proxy between us and the master may have sent a submission twice."""
    work, other = with_handle(tmp_path), "driver-20260131120000-0008"
    log = begun_log(tmp_path, work.tag)
    Folder(tmp_path).name_driver(work.tag, other)
    second = Run(work.job_id, work.tag, Handle(ENGINE, Folder(tmp_path).name(), other), RunStatus.UNKNOWN)
    said = (status("KILLED", driver=other), status(None))
    executors = answer("200 OK", EXECUTORS % work.tag)
    with misbehaving(*said) as server, misbehaving(NO_APPS, NO_WORKERS) as ui, misbehaving(executors) as worker:
        log.write_text(f"{log.read_text()}\n{executor_added('0', worker.url)}")
        log.rename(log.with_suffix(""))
        async with adapter_to(server, tmp_path, ui=ui) as adapter:
            await adapter.observe([second])  # its end is remembered
            listing = (await adapter.find([work]))[work.job_id]

    assert [run.status for run in listing.runs] == [RunStatus.ACTIVE] * 2


async def test_a_silent_web_ui_keeps_no_other_driver_from_being_found(tmp_path: Path) -> None:
    """Executors that were left behind are one job's trouble: another's driver can be stopped all the same."""
    ended, other = with_handle(tmp_path), "driver-20260131120000-0008"
    running = structs.replace(named_work(), handle=Handle(ENGINE, Folder(tmp_path).name(), other))
    with misbehaving(status("KILLED"), status("RUNNING", driver=other)) as server, misbehaving(Act.DROP) as ui:
        async with adapter_to(server, tmp_path, ui=ui) as adapter:
            await adapter.find([ended])  # its end is remembered
            listings = await adapter.find([ended, running])

    assert [run.status for run in listings[running.job_id].runs] == [RunStatus.ACTIVE]
    assert listings[running.job_id].complete
    assert not listings[ended.job_id].complete
    assert [run.status for run in listings[ended.job_id].runs] == [RunStatus.UNKNOWN]


async def test_a_worker_that_cannot_be_asked_is_told_by_the_check(tmp_path: Path) -> None:
    with misbehaving(NOBODY) as server, misbehaving(ALIVE, NO_APPS, answer("200 OK", WORKERS % NOWHERE)) as ui:
        async with adapter_to(server, tmp_path, ui=ui) as adapter:
            checked = await adapter.check()

    assert not checked.ok
    assert NOWHERE in checked.detail


async def test_the_masters_token_is_shown_to_no_web_ui() -> None:
    with misbehaving(NO_APPS, NO_WORKERS) as ui:
        line = MasterLine(NOWHERE, timeout_seconds=PATIENCE_SECONDS, ui_url=ui.url, token="the-token")
        await line.with_executors({"mine"})
        await line.aclose()

    assert [b"the-token" in request for request in ui.requests] == [False, False]


async def test_a_silent_web_ui_leaves_open_whether_executors_are_left(tmp_path: Path) -> None:
    work = with_handle(tmp_path)
    with misbehaving(status("KILLED")) as server, misbehaving(Act.DROP) as ui:
        async with adapter_to(server, tmp_path, ui=ui) as adapter:
            listing = (await adapter.find([work]))[work.job_id]

    assert not listing.complete
    assert listing.trouble is not None
    assert listing.trouble.waiting is Waiting.PLANE_SILENT


async def test_what_never_began_is_certain_once_closed_also_while_the_master_is_away(tmp_path: Path) -> None:
    """Its submission may still be on its way, or wait for a worker: no driver finds anything to run."""
    work = named_work()
    async with adapter_to(None, tmp_path) as adapter:
        Folder(tmp_path).begin(work.tag, SQL)
        before = (await adapter.find([work]))[work.job_id]
        closed = await adapter.close([work])
        after = (await adapter.find([work]))[work.job_id]

    assert (before.complete, before.runs) == (False, ())
    assert before.trouble is not None
    assert before.trouble.waiting is Waiting.NOT_CLOSED
    assert closed == {work.job_id}
    assert (after.complete, after.runs) == (True, ())


async def test_a_warehouse_that_is_not_there_proves_nothing_and_closes_nothing(tmp_path: Path) -> None:
    work = named_work()
    async with adapter_to(None, tmp_path / "absent") as adapter:
        listing = (await adapter.find([work]))[work.job_id]
        running = await adapter.running()

        assert await adapter.close([work]) == frozenset()
        assert not (await adapter.check()).ok

    assert not listing.complete
    assert not running.complete
    assert listing.trouble is not None
    assert "is it mounted" in listing.trouble.detail


async def test_while_the_warehouse_is_away_a_recorded_driver_can_still_be_stopped(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    warehouse.mkdir()
    work = with_handle(warehouse)
    with misbehaving(status("RUNNING"), status("RUNNING"), killed(True)) as server:
        async with adapter_to(server, warehouse) as adapter:
            await adapter.find([work])
            warehouse.rename(tmp_path / "away")

            listing = (await adapter.find([work]))[work.job_id]
            answers = await adapter.stop(listing.runs, Rung.ASK)

    assert [run.status for run in listing.runs] == [RunStatus.ACTIVE]
    assert not listing.complete
    assert listing.trouble is not None
    assert "is it mounted" in listing.trouble.detail
    assert list(answers.values()) == [StopAnswer.ACCEPTED]


async def test_another_warehouse_cannot_vouch_for_a_job_and_does_not_close_it(tmp_path: Path) -> None:
    elsewhere = structs.replace(named_work(), incarnation="warehouse-of-another")
    async with adapter_to(None, tmp_path) as adapter:
        listing = (await adapter.find([elsewhere]))[elsewhere.job_id]

        assert await adapter.close([elsewhere]) == frozenset()

        named = structs.replace(elsewhere, handle=Handle(ENGINE, "warehouse-of-another", DRIVER))
        unasked = (await adapter.find([named]))[named.job_id]

    assert listing.incarnation == Folder(tmp_path).name() != elsewhere.incarnation
    assert (unasked.runs, unasked.trouble) == ((), None)  # this master is not asked for another's driver


async def test_a_master_that_does_not_lead_cannot_be_cancelled_on(tmp_path: Path) -> None:
    refusal = told(success=False, message="Current state is not alive: STANDBY.")
    with misbehaving(refusal, NOBODY) as server:
        async with adapter_to(server, tmp_path) as adapter:
            standby, leading = await adapter.check(), await adapter.check()

    assert (standby.ok, leading.ok) == (False, True)
    assert "STANDBY" in standby.detail
    assert "Spark 4.3.0" in leading.detail


async def test_a_check_looks_at_the_masters_web_ui_without_which_nothing_would_be_settled(tmp_path: Path) -> None:
    standby = answer("200 OK", '{"status": "STANDBY"}')
    with misbehaving(NOBODY) as master, misbehaving(HTML, standby, ALIVE, NO_APPS, NO_WORKERS) as ui:
        async with adapter_to(master, tmp_path, ui=ui) as adapter:
            wrong, idle, right = [await adapter.check() for _ in range(3)]

    assert [wrong.ok, idle.ok, right.ok] == [False, False, True]
    assert "master_ui_url in [spark]" in wrong.detail
    assert "does not lead (STANDBY)" in idle.detail
    assert "no worker of it is alive, so that jobs wait" in right.detail


@pytest.mark.parametrize("said", [status("RUNNING"), status("ERROR"), status(None)])
async def test_what_a_driver_may_still_write_is_discarded_only_once_it_has_ended(tmp_path: Path, said: bytes) -> None:
    work, left = with_handle(tmp_path), tmp_path / "outputs"
    place = left / f"JOB_{work.job_id}"
    place.mkdir(parents=True)
    with misbehaving(said, status("KILLED")) as server:
        async with adapter_to(server, tmp_path) as adapter:
            before, removed = await adapter.discard([work]), await adapter.discard([work])

    assert before == {}
    assert removed == {work.job_id: (str(place),)}
    assert list(left.iterdir()) == []


async def test_what_a_driver_of_an_open_job_may_yet_write_is_not_discarded(tmp_path: Path) -> None:
    work = named_work()
    Folder(tmp_path).begin(work.tag, SQL)
    async with adapter_to(None, tmp_path) as adapter:
        before = await adapter.discard([work])
        await adapter.close([work])
        after = await adapter.discard([work])

    assert (before, after) == ({}, {work.job_id: ()})


# --- the engine


@pytest.mark.parametrize("act", [Act.DROP, Act.HANG, answer("502 Bad Gateway"), answer("200 OK", "{}")])
async def test_a_submission_without_an_answer_is_closed_and_fails_the_job(tmp_path: Path, act: bytes | Act) -> None:
    claim = view_of(SQL)
    permit_left = 2.0 if act in SILENT else PATIENCE_SECONDS  # long enough for the request to arrive
    with misbehaving(act) as server:
        async with engine_to(server.url, tmp_path) as engine:
            with pytest.raises(NotStarted, match="was not answered"):
                await engine.start(claim, lambda: permit_left)

            assert await engine.close(claim.tag)

    assert Folder(tmp_path).state(claim.tag).closed
    assert len(server.requests) == 1


async def test_a_driver_of_a_submission_without_an_answer_is_killed_before_the_job_fails(tmp_path: Path) -> None:
    claim = view_of(SQL)
    folder = Folder(tmp_path)
    with misbehaving(Act.DROP, killed(True), status("RUNNING"), killed(True), status("KILLED")) as server:
        async with engine_to(server.url, tmp_path) as engine:
            (tmp_path / "drivers").mkdir(exist_ok=True)
            folder.events(claim.tag).mkdir(parents=True)
            folder.name_driver(claim.tag, DRIVER)

            with pytest.raises(NotStarted, match="nothing of it runs"):
                await engine.start(claim, lambda: 30.0)

    asked = [request.split(b" ")[1].decode() for request in server.requests]
    assert f"/v1/submissions/status/{DRIVER}" in asked[asked.index(f"/v1/submissions/kill/{DRIVER}") :]


@pytest.mark.parametrize("status_line", ["400 Bad Request", "403 Forbidden", "468 Unknown Protocol Version"])
async def test_a_refused_submission_fails_the_job_with_the_masters_words(tmp_path: Path, status_line: str) -> None:
    with misbehaving(answer(status_line, '{"message": "it is malformed"}')) as server:
        async with engine_to(server.url, tmp_path) as engine:
            with pytest.raises(NotStarted, match="it is malformed"):
                await engine.start(view_of(SQL), lambda: 30.0)


async def test_a_master_that_does_not_lead_yet_is_asked_again(tmp_path: Path) -> None:
    with misbehaving(STANDBY, CREATED, status("FAILED")) as server:
        async with engine_to(server.url, tmp_path) as engine:
            handle = await engine.start(view_of(SQL), lambda: 30.0)
            ending = await engine.follow(handle)

    assert handle.run_id == DRIVER
    assert ending.status is RunStatus.ERRORED
    assert [request.partition(b" HTTP")[0] for request in server.requests[:2]] == [b"POST /v1/submissions/create"] * 2


async def test_a_master_that_is_away_is_waited_for_as_long_as_the_permit_holds(tmp_path: Path) -> None:
    left = iter([30.0, 30.0, 0.0])
    async with engine_to(NOWHERE, tmp_path) as engine:
        with pytest.raises(NotStarted, match="permit ran out"):
            await engine.start(view_of(SQL), lambda: next(left))


async def test_a_driver_that_the_master_forgot_has_not_ended_and_is_looked_for_again(tmp_path: Path) -> None:
    with misbehaving(CREATED, status(None), status(None), status("RUNNING"), status("KILLED")) as server:
        async with engine_to(server.url, tmp_path) as engine:
            with capture_logs() as logs:
                ending = await engine.follow(await engine.start(view_of(SQL), lambda: 30.0))

    assert (ending.status, ending.word) == (RunStatus.STOPPED, "KILLED")
    assert [entry["event"] for entry in logs if entry["event"] == "run_lost"] == ["run_lost"]


async def test_a_driver_that_finished_without_a_whole_output_has_not_succeeded(tmp_path: Path) -> None:
    with misbehaving(CREATED, status("FINISHED")) as server:
        async with engine_to(server.url, tmp_path) as engine:
            ending = await engine.follow(await engine.start(view_of(SQL), lambda: 30.0))

    assert ending.status is RunStatus.ERRORED
    assert ending.cause is not None
    assert "not whole" in ending.cause.message


async def test_a_job_that_is_closed_while_the_master_is_away_is_not_submitted_any_more(tmp_path: Path) -> None:
    claim = view_of(SQL)
    async with engine_to(NOWHERE, tmp_path) as engine:
        starting = asyncio.create_task(engine.start(claim, lambda: 30.0))
        await until(lambda: Folder(tmp_path).state(claim.tag).begun)

        assert await engine.close(claim.tag)
        assert Folder(tmp_path).state(claim.tag).closed

        with pytest.raises(Conflict, match="closed"):
            await starting


async def test_while_the_warehouse_is_away_an_executor_does_not_confirm_that_it_has_closed_a_job(
    tmp_path: Path,
) -> None:
    claim, warehouse, away = view_of(SQL), tmp_path / "warehouse", tmp_path / "away"
    warehouse.mkdir()
    async with engine_to(NOWHERE, warehouse) as engine:
        starting = asyncio.create_task(engine.start(claim, lambda: 30.0))
        await until(lambda: Folder(warehouse).state(claim.tag).begun)
        warehouse.rename(away)

        confirmed = await engine.close(claim.tag)
        with pytest.raises((Conflict, NotStarted)):  # it may have been writing the script when it went away
            await starting

    assert not confirmed
    assert not Folder(away).state(claim.tag).closed


async def test_a_job_that_is_closed_while_its_submission_is_on_its_way_is_killed_when_it_has_arrived(
    tmp_path: Path,
) -> None:
    claim, arrived, closed, asked = view_of(SQL), asyncio.Event(), asyncio.Event(), list[str]()

    async def master(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode().split("/")[3])
        if asked[-1] == "create":
            arrived.set()
            await closed.wait()
        said = {"create": CREATED, "kill": killed(True), "status": status("KILLED" if "kill" in asked else "RUNNING")}
        writer.write(said[asked[-1]])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(master, "127.0.0.1", 0)
    async with server, engine_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path) as engine:
        starting = asyncio.create_task(engine.start(claim, lambda: 30.0))
        await arrived.wait()
        confirmed = await engine.close(claim.tag)
        closed.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            ending = await engine.follow(await starting)

    assert not confirmed  # a driver of it may be created yet
    assert ending.status is RunStatus.STOPPED


async def test_what_a_job_left_goes_also_when_the_master_knows_its_driver_no_more(tmp_path: Path) -> None:
    """It was started again, or has seen two hundred others end since: the application's own word is enough."""
    claim = view_of(SQL)
    log = begun_log(tmp_path, claim.tag)
    left = tmp_path / "outputs" / f"JOB_{claim.job_id}"
    left.mkdir(parents=True)
    with misbehaving(status(None)) as server:
        async with engine_to(server.url, tmp_path) as engine:
            before = await engine.discard({claim.job_id: claim.tag})
            log.rename(log.with_suffix(""))
            after = await engine.discard({claim.job_id: claim.tag})
            nothing = await engine.discard({claim.job_id: claim.tag})
            unpublished = await engine.unpublished()

    assert (before, after, nothing) == ({}, {claim.job_id: (str(left),)}, {})
    assert unpublished == []


@pytest.mark.parametrize("said", [status("RUNNING"), status("ERROR")])
async def test_an_executor_keeps_what_a_driver_may_still_write(tmp_path: Path, said: bytes) -> None:
    claim = view_of(SQL)
    begun_log(tmp_path, claim.tag)
    (tmp_path / "outputs" / f"JOB_{claim.job_id}").mkdir(parents=True)
    with misbehaving(said, status("KILLED")) as server:
        async with engine_to(server.url, tmp_path) as engine:
            before, after = [await engine.discard({claim.job_id: claim.tag}) for _ in range(2)]

    assert before == {}
    assert list(after) == [claim.job_id]
