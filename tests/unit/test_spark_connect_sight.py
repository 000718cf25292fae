"""What the web UI of a Connect server shows, and what that makes of a run that is said to have ended.

The documents are those of Spark 4.3.0, shortened: of a query over one row that took seconds, and that was interrupted.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import structs

from adapters.base import Run, RunStatus
from adapters.narrative.spark_connect_names import Identity, Operation, operation_of, session_of
from adapters.narrative.spark_connect_sessions import gone
from adapters.narrative.spark_connect_sight import Job, Sight, Stage, Statement, active_tasks, moment
from adapters.narrative.spark_connect_threads import Thread, tasks
from adapters.narrative.spark_connect_words import Outliving, looked_at, run_of

HERE = Identity("local-1764367000000", "countermand")
JOB = UUID(int=7)
TAG = f"countermand:tests:{UUID(int=5)}:{JOB}:run"
SESSION, OPERATION = session_of(HERE.user, TAG).session_id, operation_of(TAG)
ENDED_AT = "2026-11-28T22:14:52.811GMT"


def sight(*, job: str, stage: str, tasks: int, session_id: str = SESSION) -> Sight:
    """The UI while Spark's job and its stage have these statuses, and as many tasks as it knows of."""
    name = f"User_countermand_Session_{session_id}"
    documents: list[dict[str, Any]] = [
        {
            "jobId": 0,
            "stageIds": [3],
            "jobTags": [
                f"SparkConnect_OperationTag_{name}_Operation_{OPERATION}",
                f"SparkConnect_SessionTag_{name}_Tag_{TAG}",
                "spark-session-87af73da-23c3-4992-b594-f844a5e4604a",
            ],
            "status": job,
            "numActiveTasks": 0,
            **({"completionTime": ENDED_AT} if job != "RUNNING" else {}),
        }
    ]
    stages = [{"status": stage, "stageId": 3, "attemptId": 0, "numTasks": 1, "numActiveTasks": tasks}]
    return Sight(tuple(msgspec.convert(documents, list[Job])), active_tasks(msgspec.convert(stages, list[Stage])))


def said(state: str) -> Run:
    """The run as GetStatus has it."""
    return run_of(JOB, TAG, OPERATION, state, HERE)


@pytest.mark.parametrize("state", ["CANCELLED", "FAILED", "SUCCEEDED"])
def test_a_run_that_is_said_to_have_ended_is_active_while_a_task_of_it_is(state: str) -> None:
    """So it was: Connect said CANCELLED at once, and the task went on for seconds."""
    seen = looked_at(said(state), sight(job="FAILED", stage="FAILED", tasks=1), HERE.user, Outliving())

    assert (seen.status, seen.word) == (RunStatus.ACTIVE, f"{state}, 1 tasks active")
    assert seen.ended_at is None


def test_a_stage_is_active_before_the_ui_knows_of_its_task() -> None:
    """It learns of that with its next event, up to ten seconds later."""
    seen = looked_at(said("CANCELLED"), sight(job="RUNNING", stage="ACTIVE", tasks=0), HERE.user, Outliving())

    assert seen.status is RunStatus.ACTIVE


def test_a_run_without_active_tasks_has_ended_when_the_last_of_its_jobs_had() -> None:
    seen = looked_at(said("CANCELLED"), sight(job="FAILED", stage="FAILED", tasks=0), HERE.user, Outliving())

    assert (seen.status, seen.word) == (RunStatus.STOPPED, "CANCELLED")
    assert seen.ended_at == datetime(2026, 11, 28, 22, 14, 52, 811000, tzinfo=UTC) == moment(ENDED_AT)


def test_a_run_whose_session_is_gone_is_active_while_a_task_of_it_is() -> None:
    run = gone(JOB, TAG, OPERATION, "INVALID_HANDLE.SESSION_CLOSED", HERE)

    still = looked_at(run, sight(job="FAILED", stage="FAILED", tasks=1), HERE.user, Outliving())
    over = looked_at(run, sight(job="FAILED", stage="FAILED", tasks=0), HERE.user, Outliving())

    assert (still.status, over.status, over.ended_at) == (RunStatus.ACTIVE, RunStatus.GONE, None)


def test_the_ui_has_no_say_in_a_run_that_is_not_said_to_have_ended() -> None:
    running = said("RUNNING")

    assert looked_at(running, sight(job="SUCCEEDED", stage="COMPLETE", tasks=0), HERE.user, Outliving()) == running


def test_the_tasks_of_another_session_are_none_of_the_runs() -> None:
    others = sight(job="RUNNING", stage="ACTIVE", tasks=1, session_id=str(UUID(int=9)))

    assert looked_at(said("CANCELLED"), others, HERE.user, Outliving()).status is RunStatus.STOPPED
    assert others.operations(SESSION) == set()


@pytest.mark.parametrize(
    ("job", "stage", "tasks", "shown"),
    [("RUNNING", "ACTIVE", 0, True), ("FAILED", "FAILED", 1, True), ("FAILED", "FAILED", 0, False)],
)
def test_a_tag_is_shown_while_something_of_it_runs(job: str, stage: str, tasks: int, shown: bool) -> None:
    seen = sight(job=job, stage=stage, tasks=tasks)

    assert seen.tagged(f"countermand:tests:{UUID(int=5)}:") == ({(SESSION, TAG)} if shown else set())
    assert seen.tagged(f"countermand:tests:{UUID(int=6)}:") == set()


# --- what the web UI has forgotten

NAME = Operation(session_of(HERE.user, TAG), OPERATION)


def later_job(number: int, *, stages: list[int] = [], ended_at: str = ENDED_AT) -> Job:  # noqa: B006  read only
    return Job(number, [], stages, "SUCCEEDED", ended_at)


def cut(**known: Any) -> Sight:
    """The UI once the job has fallen out of its list."""
    return Sight((later_job(8, stages=[8]), later_job(7, stages=[7])), {7: 0, 8: 0}, **known)


def began(text: str) -> dict[tuple[str, str], datetime]:
    return {(SESSION, OPERATION): moment(text)}


def test_a_run_that_began_before_the_oldest_end_that_is_shown_may_go_on_unseen() -> None:
    early = cut(began=began("2026-11-28T22:14:52.811GMT"))
    late = cut(began=began("2026-11-28T22:14:52.812GMT"))
    unheard_of = cut()

    statuses = [looked_at(said("CANCELLED"), seen, HERE.user, Outliving()).status for seen in (early, late, unheard_of)]

    assert statuses == [RunStatus.ACTIVE, RunStatus.STOPPED, RunStatus.ACTIVE]


def test_when_an_operation_began_the_ui_tells_in_milliseconds_and_the_oldest_end_that_is_shown_counts() -> None:
    jobs = [later_job(8, ended_at="2026-11-28T22:14:53.000GMT"), later_job(7)]
    ended_at = int(moment(ENDED_AT).timestamp() * 1000)

    looks = [Sight.of([Statement(SESSION, OPERATION, "CLOSED", ended_at + later)], jobs, []) for later in (0, 1)]

    assert [look.may_lack(NAME) for look in looks] == [True, False]


def test_a_list_that_shows_no_end_says_nothing_of_what_is_forgotten() -> None:
    running = Job(8, [], [8], "RUNNING")

    assert Sight((running,), {8: 1}, began=began(ENDED_AT)).may_lack(NAME)


def test_of_a_list_that_is_whole_nothing_is_forgotten() -> None:
    assert not Sight((later_job(1), later_job(0)), {}).may_lack(NAME)
    assert not Sight((), {}).may_lack(NAME)


def test_a_job_of_which_a_stage_is_forgotten_may_have_a_task_left() -> None:
    shown = sight(job="FAILED", stage="FAILED", tasks=0)._replace(active={})

    seen = looked_at(said("CANCELLED"), shown, HERE.user, Outliving())
    tried = looked_at(said("CANCELLED"), shown.with_tasks({3: 1}, shown), HERE.user, Outliving())
    over = looked_at(said("CANCELLED"), shown.with_tasks({}, shown), HERE.user, Outliving())

    assert [run.status for run in (seen, tried, over)] == [RunStatus.ACTIVE, RunStatus.ACTIVE, RunStatus.STOPPED]
    assert tried.word == "CANCELLED, 1 tasks active"


def test_a_stage_of_which_an_earlier_attempt_is_forgotten_may_have_a_task_left_of_that() -> None:
    """Tasks of an attempt that failed go on; where all attempts are shown, so are these."""
    [job] = sight(job="FAILED", stage="FAILED", tasks=0).jobs
    first, second = Stage(3, status="FAILED"), Stage(3, attempt_id=1, status="COMPLETE")
    looks = [Sight.of([], [job], stages) for stages in ([first, second], [second])]

    statuses = [looked_at(said("CANCELLED"), seen, HERE.user, Outliving()).status for seen in looks]
    left = looked_at(said("CANCELLED"), looks[1].with_tasks({3: 1}, looks[1]), HERE.user, Outliving())

    assert statuses == [RunStatus.STOPPED, RunStatus.ACTIVE]
    assert left.word == "CANCELLED, 1 tasks active"


def test_what_outlived_its_job_has_ended_once_no_task_of_what_is_forgotten_runs() -> None:
    """Otherwise whoever saw it go on would wait for ever."""
    outliving = Outliving()
    looks = [
        sight(job="FAILED", stage="FAILED", tasks=1),
        cut(),
        Sight((), {}),
        cut().with_tasks({3: 1}, cut()),
        cut().with_tasks({8: 1}, cut()),
    ]

    statuses = [looked_at(said("CANCELLED"), seen, HERE.user, outliving).status for seen in looks]

    assert statuses == [*[RunStatus.ACTIVE] * 4, RunStatus.STOPPED]


def test_a_job_that_ended_and_was_forgotten_during_a_look_counts_as_running() -> None:
    """Whoever waited for it may begin more; what came and went meanwhile, nobody can tell whose it was."""
    [running] = sight(job="RUNNING", stage="ACTIVE", tasks=1).jobs
    earlier = Sight((running,), {3: 1})
    whole = Sight((later_job(1), structs.replace(running, status="FAILED", completion_time=ENDED_AT)), {3: 0})
    cut_short = Sight((later_job(1),), {3: 0})
    two_later = Sight((later_job(2), later_job(0)), {})

    assert cut_short.since(earlier).traces(NAME).running_jobs == whole.since(earlier).traces(NAME).running_jobs == 1
    assert two_later.since(Sight((later_job(0),), {})).in_line
    assert not whole.since(earlier).in_line
    assert whole._replace(in_line=True).since(earlier).in_line


def test_the_tasks_of_a_job_that_is_shown_are_those_that_the_ui_knows_and_those_that_threads_run() -> None:
    shown = sight(job="FAILED", stage="FAILED", tasks=2)

    counts = [shown.with_tasks(tasks, shown).traces(NAME).active_tasks for tasks in ({}, {3: 1}, {3: 4})]

    assert counts == [2, 2, 4]


@pytest.mark.parametrize(
    ("running", "status"), [({5: 1}, RunStatus.ACTIVE), ({8: 2, 9: 1}, RunStatus.STOPPED), ({}, RunStatus.STOPPED)]
)
def test_only_tasks_of_no_job_that_is_shown_may_be_a_forgotten_ones(running: dict[int, int], status: RunStatus) -> None:
    later = cut()._replace(jobs=(later_job(9, stages=[9]), *cut().jobs))

    seen = looked_at(said("CANCELLED"), cut().with_tasks(running, later), HERE.user, Outliving())

    assert seen.status is status


def test_a_thread_tells_the_stage_of_the_task_that_it_runs_and_one_that_waits_for_the_next_none() -> None:
    """As Spark 4.3.0 names them: one that waits keeps the name of its last."""
    name = "Executor task launch worker for task 2.0 in stage 13.1 (TID 37)"
    told = [(name, "spark.executor.Executor$TaskRunner.run"), (name, "ThreadPoolExecutor.getTask"), ("broadcast-0", "")]
    documents = [
        {"threadId": number, "threadName": name, "stackTrace": {"elems": [call]}}
        for number, (name, call) in enumerate(told)
    ]

    assert tasks(msgspec.convert(documents, list[Thread])) == {13: 1}
