"""The contract of adapters: what a canceller may rely on, whichever engine it speaks to.

It runs over the embedded adapter, with a real engine behind a real socket, over the Snowflake adapter, with the real
connector and a double of the account that really runs queries (or a real account), over the adapters of Spark, with a
real Connect server and a real standalone cluster, and over the double in memory. The second half is about executors'
processes: what their silence proves, and what their return.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from msgspec import structs

from adapters.base import ENDED, Adapter, Run, RunStatus, StopAnswer
from adapters.narrative.embedded import INCARNATION_ENDED, EmbeddedAdapter
from adapters.narrative.wire import run_handle
from control_plane.errors import Conflict
from control_plane.jobs import Handle, Purpose, Rung, Waiting, work_tag
from control_plane.planes import Owner, Tracking
from control_plane.work import Executor, Publication, Work
from tests.contract.snowflake import SnowflakePlane
from tests.contract.spark_connect import connected
from tests.contract.spark_standalone import standalone_plane
from tests.doubles.memory_engine import Faults, MemoryEngine
from tests.narrative import ENDLESS, PLANE, named_work, opened, rows, run_to_end, view_of
from tests.snowflake import SnowflakeAccount
from tests.spark import ConnectServer
from workers.engines.embedded import EmbeddedEngine
from workers.run_server import open_unix_door, run_application, serving

pytestmark = pytest.mark.anyio


class Plane(Protocol):
    """An adapter, and an engine behind it in which a test can start jobs."""

    outsider: str  #: the user "dbt", as the engine names it

    @property
    def adapter(self) -> Adapter:
        """What is tested."""

    @property
    def writer(self) -> Adapter:
        """The same, as a user who may write outputs."""

    def work(self) -> Work:
        """A job that was claimed and not yet started."""

    async def start(self, work: Work) -> None:
        """Start it; its run would last for minutes."""

    async def succeed(self, work: Work) -> None:
        """Start it and let it succeed, with an output."""

    async def fail(self, work: Work) -> None:
        """Start it and let it fail."""

    async def shown(self) -> int | None:
        """The publication number that readers of dataset 6404 see."""

    async def start_elsewhere(self, owner: str) -> str:
        """Start what is nobody's job, as this user; answers its name."""


class MemoryPlane:
    """The double."""

    outsider = "dbt"

    def __init__(self) -> None:
        self.adapter = self.writer = self.engine = MemoryEngine()

    def work(self) -> Work:
        return named_work()

    async def start(self, work: Work) -> None:
        self.engine.start(work)

    async def succeed(self, work: Work) -> None:
        self.engine.start(work)
        self.engine.end(work, RunStatus.SUCCEEDED)

    async def fail(self, work: Work) -> None:
        self.engine.start(work)
        self.engine.end(work, RunStatus.ERRORED)

    async def shown(self) -> int | None:
        return self.engine.shown.get(6404, (None, None))[0]

    async def start_elsewhere(self, owner: str) -> str:
        return self.engine.start_elsewhere(Owner(user=owner))


class EmbeddedPlane:
    """A real executor's engine, served at a real socket, and the adapter that speaks to it."""

    outsider = "dbt"

    def __init__(self, engine: EmbeddedEngine, adapter: EmbeddedAdapter, address: str) -> None:
        self.engine = engine
        self.adapter = self.writer = adapter
        self.executor = Executor(engine.executor_id, int(engine.incarnation), address)

    def work(self) -> Work:
        return structs.replace(named_work(), executor=self.executor, incarnation=self.engine.incarnation)

    async def start(self, work: Work) -> None:
        await self.engine.start(structs.replace(view_of(ENDLESS, job_id=work.job_id), tag=work.tag), lambda: 30.0)

    async def succeed(self, work: Work) -> None:
        number = work.publication.number if work.publication else 0
        claim = view_of(f"SELECT {number} AS n", job_id=work.job_id)
        assert (await run_to_end(self.engine, structs.replace(claim, tag=work.tag))).status is RunStatus.SUCCEEDED

    async def fail(self, work: Work) -> None:
        claim = view_of("SELECT missing FROM narrative.datasets.ds_1", job_id=work.job_id)
        assert (await run_to_end(self.engine, structs.replace(claim, tag=work.tag))).status is RunStatus.ERRORED

    async def shown(self) -> int | None:
        found = rows(self.engine, "SELECT 1 FROM duckdb_views() WHERE view_name = 'ds_6404'")
        return int(rows(self.engine, "SELECT n FROM narrative.datasets.ds_6404")[0][0]) if found else None

    async def start_elsewhere(self, owner: str) -> str:
        return self.engine.start_query(ENDLESS, owner).run_id


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[EmbeddedPlane]:
    """One incarnation of the executor of this folder, with an adapter of its own."""
    async with opened(path) as engine, serving(run_application(engine), open_unix_door(path)) as address:
        adapter = EmbeddedAdapter(timeout_seconds=60.0)
        yield EmbeddedPlane(engine, adapter, address)
        await adapter.aclose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


#: Where a run's user is known. A standalone master tells none: there nobody's drivers but our own can be stopped.
TELLING_OWNERS = [
    "embedded",
    pytest.param("snowflake", marks=pytest.mark.live),
    pytest.param("spark-connect", marks=pytest.mark.spark),
    "memory",
]


@pytest.fixture(params=[*TELLING_OWNERS, pytest.param("spark-standalone", marks=pytest.mark.spark)])
async def plane(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Plane]:
    if request.param == "memory":
        yield MemoryPlane()
    elif request.param == "embedded":
        async with served(tmp_path) as embedded:
            yield embedded
    elif request.param == "spark-connect":
        server: ConnectServer = request.getfixturevalue("spark_connect")
        async with connected(server, tmp_path) as cluster:
            yield cluster
    elif request.param == "spark-standalone":
        async with standalone_plane(request.getfixturevalue("spark_standalone"), tmp_path) as standalone:
            yield standalone
    else:
        account: SnowflakeAccount = request.getfixturevalue("snowflake")
        with ExitStack() as sessions:
            snowflake = SnowflakePlane(account, sessions)
            yield snowflake
            await snowflake.aclose()


async def find_one(plane: Plane, work: Work) -> Run:
    """The job's one run; the listing must be complete."""
    listing = (await plane.adapter.find([work]))[work.job_id]
    assert listing.complete
    [run] = listing.runs
    return run


async def stopped(plane: Plane, run: Run) -> Run:
    """The run once the engine says that it has ended."""
    async with asyncio.timeout(60):
        while (seen := (await plane.adapter.observe([run]))[run.handle]).status not in ENDED or seen.ended_at is None:
            pass
    return seen


def published_as(work: Work, number: int) -> Work:
    return structs.replace(work, publication=Publication(6404, number))


# --- finding


async def test_a_running_job_is_found_by_its_tag_alone(plane: Plane) -> None:
    work = plane.work()
    await plane.start(work)

    run = await find_one(plane, work)

    assert (run.job_id, run.tag, run.status) == (work.job_id, work.tag, RunStatus.ACTIVE)
    assert run.handle.engine == plane.adapter.engine
    assert run.word


async def test_a_job_that_never_started_has_a_complete_and_empty_listing(plane: Plane) -> None:
    work = plane.work()

    listing = (await plane.adapter.find([work]))[work.job_id]

    assert (listing.runs, listing.complete, listing.trouble) == ((), True, None)
    assert listing.incarnation is not None


async def test_each_job_is_answered_for_by_its_id(plane: Plane) -> None:
    works = [plane.work() for _ in range(3)]
    for work in works[:2]:
        await plane.start(work)

    listings = await plane.adapter.find(works)

    assert listings.keys() == {work.job_id for work in works}
    assert [run.job_id for work in works for run in listings[work.job_id].runs] == [w.job_id for w in works[:2]]


async def test_work_of_another_installation_plane_or_purpose_is_not_found(plane: Plane) -> None:
    work = plane.work()
    await plane.start(work)
    installation = work.tag.split(":")[1]
    decoys = [
        work_tag("another", PLANE, work.job_id),
        work_tag(installation, uuid4(), work.job_id),
        work_tag(installation, PLANE, work.job_id, Purpose.PUBLISH),
        work.tag[:-1],
        work.tag + "s",
        work.tag.upper(),
    ]

    for decoy in decoys:
        listing = (await plane.adapter.find([structs.replace(work, tag=decoy)]))[work.job_id]
        assert listing.runs == ()


async def test_asking_about_nothing_answers_nothing(plane: Plane) -> None:
    assert dict(await plane.adapter.find([])) == {}
    assert dict(await plane.adapter.stop([], Rung.ASK)) == {}
    assert await plane.adapter.close([]) == frozenset()
    assert dict(await plane.adapter.observe([])) == {}
    assert await plane.adapter.publish([]) == frozenset()
    assert dict(await plane.adapter.discard([])) == {}


async def test_all_that_runs_is_told_and_nothing_that_has_ended(plane: Plane) -> None:
    active, ended = plane.work(), plane.work()
    await plane.start(active)
    await plane.succeed(ended)
    await plane.adapter.find([active, ended])

    listing = await plane.adapter.running()

    assert listing.complete
    assert [run.job_id for run in listing.runs] == [active.job_id]


async def test_a_plane_that_answers_can_be_cancelled_on(plane: Plane) -> None:
    await plane.adapter.find([plane.work()])

    check = await plane.adapter.check()

    assert check.ok
    assert "\n" not in check.detail


# --- work that was started elsewhere


def tracked(plane: Plane, name: str) -> Work:
    """A job whose only run is the one of this name."""
    return structs.replace(plane.work(), handle=Handle("", "", name), tracked=Tracking(users=["dbt"]))


@pytest.mark.parametrize("plane", TELLING_OWNERS, indirect=True)
async def test_a_tracked_run_is_found_by_its_name_alone_with_its_owner(plane: Plane) -> None:
    name, _other = await plane.start_elsewhere("dbt"), await plane.start_elsewhere("dbt")
    work = tracked(plane, name)

    run = await find_one(plane, work)

    assert (run.job_id, run.status) == (work.job_id, RunStatus.ACTIVE)
    assert run.owner is not None
    assert str(run.owner.user).lower() == plane.outsider
    assert (run.handle.engine, run.handle.run_id) == (plane.adapter.engine, name)
    assert run.tag != work.tag


async def test_a_tracked_run_can_be_stopped_and_its_neighbour_runs_on(plane: Plane) -> None:
    doomed, spared = [tracked(plane, await plane.start_elsewhere("dbt")) for _ in range(2)]
    run = await find_one(plane, doomed)

    answers = await plane.adapter.stop([run], Rung.ASK)
    await stopped(plane, run)

    assert answers == {run.handle: StopAnswer.ACCEPTED}
    assert (await find_one(plane, doomed)).status is RunStatus.STOPPED
    assert (await find_one(plane, spared)).status is RunStatus.ACTIVE


@pytest.mark.parametrize("has_the_form", [True, False])
async def test_a_name_that_the_engine_does_not_know_is_no_run(plane: Plane, has_the_form: bool) -> None:
    name = await plane.start_elsewhere("dbt")
    # Names may be counted, and a neighbour in the same second differ by one.
    wrong = name[:-2] + ("99" if name[-2:] != "99" else "00") if has_the_form else name[:-1]

    listing = (await plane.adapter.find([work := tracked(plane, wrong)]))[work.job_id]

    assert listing.runs == ()
    assert listing.complete or (listing.trouble and listing.trouble.waiting is Waiting.HANDLE_UNKNOWN)


@pytest.mark.parametrize("ended", [False, True])
async def test_the_run_of_a_job_belongs_to_nobody_who_could_be_allowed(plane: Plane, ended: bool) -> None:
    work = plane.work()
    await (plane.succeed(work) if ended else plane.start(work))
    name = (await find_one(plane, work)).handle.run_id

    listing = (await plane.adapter.find([wanted := tracked(plane, name)]))[wanted.job_id]

    assert [run.owner for run in listing.runs] in ([], [None])
    assert listing.runs or (listing.trouble and listing.trouble.waiting is Waiting.NOT_PERMITTED)


async def test_work_started_elsewhere_is_none_of_the_planes_own(plane: Plane) -> None:
    await find_one(plane, tracked(plane, await plane.start_elsewhere("dbt")))

    assert (await plane.adapter.running()).runs == ()


# --- stopping


@pytest.mark.parametrize("rung", [Rung.ASK, Rung.INSIST, pytest.param(Rung.FORCE, marks=pytest.mark.ends_sessions)])
async def test_a_stopped_run_is_seen_to_end_with_the_engines_word_and_time(plane: Plane, rung: Rung) -> None:
    work = plane.work()
    await plane.start(work)
    run = await find_one(plane, work)

    answers = await plane.adapter.stop([run], rung)
    seen = await stopped(plane, run)

    assert answers == {run.handle: StopAnswer.ACCEPTED}
    assert (seen.status, seen.handle) == (RunStatus.STOPPED, run.handle)
    assert seen.word
    assert seen.ended_at is not None
    assert await find_one(plane, work) == seen


async def test_stopping_again_is_harmless(plane: Plane) -> None:
    work = plane.work()
    await plane.start(work)
    run = await find_one(plane, work)
    await plane.adapter.stop([run], Rung.ASK)
    await stopped(plane, run)

    assert await plane.adapter.stop([run], Rung.ASK) == {run.handle: StopAnswer.ALREADY_ENDED}


async def test_stopping_one_run_leaves_the_next_alone(plane: Plane) -> None:
    doomed, spared = plane.work(), plane.work()
    for work in (doomed, spared):
        await plane.start(work)
    run = await find_one(plane, doomed)

    await plane.adapter.stop([run], Rung.ASK)
    await stopped(plane, run)

    assert (await find_one(plane, spared)).status is RunStatus.ACTIVE


async def test_a_run_that_succeeded_first_stays_succeeded(plane: Plane) -> None:
    work = plane.work()
    await plane.succeed(work)
    run = await find_one(plane, work)

    answers = await plane.adapter.stop([run], Rung.ASK)

    assert answers == {run.handle: StopAnswer.ALREADY_ENDED}
    assert (await find_one(plane, work)).status is RunStatus.SUCCEEDED


async def test_a_run_that_failed_is_errored(plane: Plane) -> None:
    work = plane.work()
    await plane.fail(work)

    run = await find_one(plane, work)

    assert run.status is RunStatus.ERRORED
    assert run.word


async def test_a_run_that_the_engine_does_not_know_has_not_ended(plane: Plane) -> None:
    work, unknown = plane.work(), plane.work()
    await plane.start(work)
    run = await find_one(plane, work)
    named = run.handle.run_id.replace(str(work.job_id), str(unknown.job_id))
    name = named if named != run.handle.run_id else str(uuid4())
    stranger = structs.replace(
        run, job_id=unknown.job_id, tag=unknown.tag, handle=structs.replace(run.handle, run_id=name)
    )

    seen = await plane.adapter.observe([run, stranger])

    assert seen[stranger.handle].status in (RunStatus.GONE, RunStatus.UNKNOWN)
    assert seen[run.handle].status is RunStatus.ACTIVE


# --- closing


@pytest.mark.ends_sessions
async def test_a_closed_job_cannot_start_any_more(plane: Plane) -> None:
    work = plane.work()

    closed = await plane.adapter.close([work])

    assert closed == {work.job_id}
    with pytest.raises(Conflict):
        await plane.start(work)


@pytest.mark.ends_sessions
async def test_closing_again_is_harmless_and_closes_nothing_else(plane: Plane) -> None:
    work, other = plane.work(), plane.work()
    await plane.adapter.close([work])

    assert await plane.adapter.close([work]) == {work.job_id}
    await plane.start(other)


# --- publishing and discarding


async def test_publishing_is_idempotent(plane: Plane) -> None:
    work = published_as(plane.work(), 1)
    await plane.succeed(work)

    assert await plane.writer.publish([work]) == {work.job_id}
    assert await plane.writer.publish([work]) == {work.job_id}
    assert await plane.shown() == 1


async def test_publishing_never_goes_back_to_a_lower_number_and_both_jobs_count_as_published(plane: Plane) -> None:
    older, newer = published_as(plane.work(), 1), published_as(plane.work(), 2)
    for work in (older, newer):
        await plane.succeed(work)

    assert await plane.writer.publish([newer]) == {newer.job_id}
    assert await plane.writer.publish([older]) == {older.job_id}

    assert await plane.shown() == 2
    assert await plane.writer.publish([older, newer]) == {older.job_id, newer.job_id}


async def test_a_job_without_an_output_is_not_published(plane: Plane) -> None:
    assert await plane.writer.publish([published_as(plane.work(), 1)]) == frozenset()


async def test_what_an_unpublished_job_wrote_is_removed_once_or_left_to_its_executor(plane: Plane) -> None:
    work = plane.work()
    await plane.succeed(work)

    removed = await plane.adapter.discard([work])
    again = await plane.adapter.discard([work])

    if removed:
        assert len(removed[work.job_id]) == 1
        assert again == {work.job_id: ()}
    else:
        assert plane.adapter.engine == "snowflake"


async def test_what_is_published_is_not_removed(plane: Plane) -> None:
    work = published_as(plane.work(), 1)
    await plane.succeed(work)
    await plane.writer.publish([work])

    assert not (await plane.adapter.discard([work])).get(work.job_id)
    assert await plane.shown() == 1


# --- an executor's process: what its silence proves, and what its return


async def test_a_dead_executor_holds_up_only_its_own_works(tmp_path: Path) -> None:
    async with served(tmp_path / "dead") as dead:
        lost = dead.work()
    async with served(tmp_path / "alive") as alive:
        work = alive.work()
        await alive.start(work)

        listings = await alive.adapter.find([lost, work])

        assert listings[work.job_id].complete
        assert not listings[lost.job_id].complete
        trouble = listings[lost.job_id].trouble
        assert trouble is not None
        assert trouble.waiting is Waiting.PLANE_SILENT
        assert "cannot be reached" in trouble.detail
        assert await alive.adapter.close([lost, work]) == {work.job_id}


async def test_a_hanging_executor_is_silent_after_the_time_out(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    server = await asyncio.start_unix_server(hang, tmp_path / "run.sock")
    work = structs.replace(named_work(), executor=Executor("job-executor-1", 1, f"unix:{tmp_path}/run.sock"))
    adapter = EmbeddedAdapter(timeout_seconds=0.1)

    listing = (await adapter.find([work]))[work.job_id]

    assert listing.trouble is not None
    assert "did not answer within 0.1 s" in listing.trouble.detail
    released.set()
    server.close()
    await server.wait_closed()
    await adapter.aclose()


async def test_a_later_incarnation_proves_that_the_earlier_ones_runs_have_ended(tmp_path: Path) -> None:
    async with served(tmp_path) as first:
        work = first.work()
    async with served(tmp_path) as second:
        run = await find_one(second, work)

        assert (run.status, run.word) == (RunStatus.STOPPED, INCARNATION_ENDED)
        assert run.handle == run_handle(first.executor.executor_id, "1", work.job_id)
        assert (await second.adapter.observe([run]))[run.handle].status is RunStatus.STOPPED
        assert await second.adapter.close([work]) == {work.job_id}


async def test_the_recorded_handle_is_the_one_that_an_ended_incarnations_run_keeps(tmp_path: Path) -> None:
    recorded = Handle("duckdb", "1", "the recorded one")
    async with served(tmp_path) as first:
        work = structs.replace(first.work(), handle=recorded)
    async with served(tmp_path) as second:
        assert (await find_one(second, work)).handle == recorded


async def test_an_earlier_incarnation_proves_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as plane:
        later = structs.replace(plane.executor, incarnation=2)
        work = structs.replace(plane.work(), executor=later)
        run = Run(work.job_id, work.tag, run_handle(later.executor_id, "2", work.job_id), RunStatus.ACTIVE)

        listing = (await plane.adapter.find([work]))[work.job_id]

        assert not listing.complete
        assert listing.trouble is not None
        assert listing.trouble.waiting is Waiting.PLANE_SILENT
        assert await plane.adapter.close([work]) == frozenset()
        assert await plane.adapter.observe([run]) == {}


@pytest.mark.parametrize("registered", [1, 3])
async def test_a_later_incarnation_that_is_not_the_registered_one_proves_nothing(
    tmp_path: Path, registered: int
) -> None:
    async with served(tmp_path) as first:
        work = first.work()
    async with served(tmp_path) as second:
        work = structs.replace(work, executor=structs.replace(second.executor, incarnation=1, registered=registered))
        run = Run(work.job_id, work.tag, run_handle(first.executor.executor_id, "1", work.job_id), RunStatus.ACTIVE)

        listing = (await second.adapter.find([work]))[work.job_id]

        assert not listing.complete
        assert listing.trouble is not None
        assert f"as incarnation 2, but {registered} is registered" in listing.trouble.detail
        assert await second.adapter.close([work]) == frozenset()
        assert await second.adapter.observe([run]) == {}


async def test_another_executor_at_the_address_proves_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as plane:
        other = Executor("job-executor-other", 1, plane.executor.address)
        work = structs.replace(plane.work(), executor=other)

        listing = (await plane.adapter.find([work]))[work.job_id]

        assert not listing.complete
        assert listing.trouble is not None
        assert "in place of job-executor-other" in listing.trouble.detail
        assert await plane.adapter.close([work]) == frozenset()


async def test_a_later_incarnation_cannot_tell_how_a_tracked_run_of_an_earlier_one_ended(tmp_path: Path) -> None:
    """It may have succeeded, and had its effect; or there never was such a run."""
    async with served(tmp_path) as first:
        name = await first.start_elsewhere("dbt")
    async with served(tmp_path) as second:
        listing = (await second.adapter.find([work := tracked(second, name)]))[work.job_id]

        assert (listing.runs, listing.complete) == ((), False)
        assert listing.trouble is not None
        assert listing.trouble.waiting is Waiting.HANDLE_UNKNOWN
        assert "nothing of it runs any more" in listing.trouble.detail


async def test_a_tracked_run_of_a_later_incarnation_is_unknown_to_an_earlier_one(tmp_path: Path) -> None:
    async with served(tmp_path) as plane:
        later = (await plane.start_elsewhere("dbt")).replace("/1/", "/2/")

        listing = (await plane.adapter.find([work := tracked(plane, later)]))[work.job_id]

        assert not listing.complete
        assert listing.trouble is not None
        assert listing.trouble.waiting is Waiting.HANDLE_UNKNOWN


@pytest.mark.parametrize("name", ["", "x", "a/b/c", "job-executor-1//x", "job-executor-1/1/", "/1/x", "' OR 1=1 --"])
async def test_what_cannot_be_the_name_of_an_embedded_run_proves_nothing(tmp_path: Path, name: str) -> None:
    async with served(tmp_path) as plane:
        listing = (await plane.adapter.find([work := tracked(plane, name)]))[work.job_id]

        assert not listing.complete
        assert listing.trouble is not None
        assert listing.trouble.waiting is Waiting.HANDLE_UNKNOWN


@pytest.mark.parametrize("address", [None, "ftp://x", "unix:/nowhere/run.sock", "http://127.0.0.1:1", "http://[", ""])
async def test_an_address_where_nobody_answers_is_silent(address: str | None) -> None:
    adapter = EmbeddedAdapter(timeout_seconds=1.0)
    work = structs.replace(named_work(), executor=Executor("job-executor-1", 1, address))

    listing = (await adapter.find([work]))[work.job_id]

    assert listing.trouble is not None
    assert listing.trouble.waiting is Waiting.PLANE_SILENT
    assert not (await adapter.check()).ok
    await adapter.aclose()


async def test_a_job_without_an_executor_is_unknown_to_this_engine() -> None:
    adapter = EmbeddedAdapter()
    work = named_work()

    listing = (await adapter.find([work]))[work.job_id]

    assert not listing.complete
    assert listing.trouble is not None
    assert await adapter.close([work]) == frozenset()
    assert await adapter.discard([work]) == {}
    await adapter.aclose()


# --- the double's faults, so that what the canceller's tests say of them is true


async def test_an_engine_that_ignores_stops_accepts_them_and_runs_on() -> None:
    plane = MemoryPlane()
    plane.engine.faults = Faults(ignores_stops=True)
    work = plane.work()
    await plane.start(work)
    run = await find_one(plane, work)

    assert await plane.adapter.stop([run], Rung.FORCE) == {run.handle: StopAnswer.ACCEPTED}
    assert (await find_one(plane, work)).status is RunStatus.ACTIVE


async def test_an_engine_that_yields_to_force_runs_on_until_then() -> None:
    plane = MemoryPlane()
    plane.engine.faults = Faults(stubborn_below=Rung.FORCE)
    work = plane.work()
    await plane.start(work)
    run = await find_one(plane, work)

    statuses = []
    for rung in Rung:
        await plane.adapter.stop([run], rung)
        statuses.append((await find_one(plane, work)).status)

    assert statuses == [RunStatus.ACTIVE, RunStatus.ACTIVE, RunStatus.STOPPED]


@pytest.mark.parametrize("faults", [Faults(truncates=True), Faults(silent=True)])
async def test_an_engine_in_trouble_gives_no_complete_listing(faults: Faults) -> None:
    plane = MemoryPlane()
    plane.engine.faults = faults
    work = plane.work()
    await plane.start(work)

    listing = (await plane.adapter.find([work]))[work.job_id]

    assert (listing.complete, listing.runs) == (False, ())


async def test_an_engine_that_hangs_answers_once_it_is_let() -> None:
    plane = MemoryPlane()
    plane.engine.faults = Faults(hangs=(let := asyncio.Event()))
    work = plane.work()

    finding = asyncio.ensure_future(plane.adapter.find([work]))
    await asyncio.sleep(0)
    assert not finding.done()
    let.set()

    assert (await finding)[work.job_id].complete
