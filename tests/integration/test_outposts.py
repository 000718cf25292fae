"""A worker of planes at a control plane elsewhere: it says who it is, is told what is wrong, and serves the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs
from structlog.typing import EventDict

from control_plane.certificates import tls_context
from control_plane.errors import BadInput, CountermandError, Forbidden, Refused, Unauthenticated
from control_plane.lifecycle import JobState
from control_plane.planes import DataPlane
from control_plane.tokens import Permission
from tests.doubles.manual_clock import ManualClock
from tests.doubles.memory_engine import MemoryEngine
from tests.integration.api import ALLOWED_SECONDS, Api, served, soon
from tests.integration.given import Given
from tests.integration.test_rounds import started
from workers.introduction import introduce
from workers.limits import Limits
from workers.line import Bearer, Line
from workers.outposts import TRY_AGAIN_SECONDS, Outpost, serve_all

pytestmark = pytest.mark.anyio

UNKNOWN = f"ctm_{'0' * 32}_{'x' * 43}"
DAY = timedelta(days=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Elsewhere(httpx.AsyncBaseTransport):
    """The API in this process, with the test's hand on what it answers, and on when."""

    def __init__(self, api: Api) -> None:
        self._inner = httpx.ASGITransport(api.http._transport.app)  # type: ignore[attr-defined]
        self.version: bytes | None = None
        self.asked: list[str] = []
        self.before_answer: Callable[[httpx.Response], Any] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        answer = await self._inner.handle_async_request(request)
        body = await answer.aread()
        if self.version is not None and request.url.path == "/whoami":
            version = httpx.Response(200, content=body).json()["version"].encode()
            body = body.replace(b'"version":"' + version, b'"version":"' + self.version)
        if self.before_answer:
            await self.before_answer(answer)
        kind = {"Content-Type": answer.headers.get("Content-Type", "")}
        return httpx.Response(answer.status_code, headers=kind, content=body)


@dataclass
class Site:
    """A worker's machine: a clock, a token file for each plane, and an engine behind each."""

    api: Api
    time: ManualClock = field(default_factory=ManualClock)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    elsewhere: Elsewhere = field(init=False)
    tokens: dict[str, str] = field(default_factory=dict)
    outposts: list[Outpost] = field(default_factory=list)
    engine: MemoryEngine = field(default_factory=MemoryEngine)

    def __post_init__(self) -> None:
        self.elsewhere = Elsewhere(self.api)

    def line(self) -> Line:
        return Line("http://countermand", tls=tls_context(), transport=self.elsewhere)

    def bearer(self, name: str) -> Bearer:
        return Bearer(lambda: self.tokens[name])

    def outpost(self, name: str, token: str, *, wanted: str | None = None) -> Outpost:
        self.tokens[name] = token
        outpost = Outpost(
            name,
            self.line(),
            self.bearer(name),
            wanted=wanted,
            make=lambda _introduced: self.engine,
            worker="w1",
            limits=Limits(),
            clock=self.time.clock(),
        )
        self.outposts.append(outpost)
        return outpost

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator["asyncio.Task[None]"]:
        serving = asyncio.create_task(serve_all(self.outposts, stopping=self.stopping, clock=self.time.clock()))
        try:
            yield serving
        finally:
            self.stopping.set()
            for outpost in self.outposts:
                outpost.wake.set()
                outpost.beat.set()
            await self.until(serving.done)

    async def until(self, done: Callable[[], bool], *, step_seconds: float = 0) -> None:
        async with asyncio.timeout(ALLOWED_SECONDS):
            while not done():
                self.time.advance(step_seconds)
                await checkpoint()

    async def until_tried_again(self, tries: int = 1) -> None:
        """Time passes, until outposts that were left out have said so many times more who they are."""
        wanted = self.elsewhere.asked.count("/whoami") + tries
        await self.until(lambda: self.elsewhere.asked.count("/whoami") >= wanted, step_seconds=TRY_AGAIN_SECONDS)


@pytest.fixture
async def site(given: Given) -> AsyncIterator[Site]:
    async with served(given) as api:
        yield Site(api)


def lines(logs: list[EventDict], name: str) -> list[EventDict]:
    return [line for line in logs if line["event"] == name]


def refused(site: Site, why: str, plane: DataPlane) -> Outpost:
    """An outpost that is not let in."""
    match why:
        case "unknown":
            return site.outpost("left-out", UNKNOWN)
        case "unbound":
            return site.outpost("left-out", site.api.token([Permission.JOBS_WRITE]))
        case "powerless":
            return site.outpost("left-out", site.api.token([Permission.JOBS_READ], plane=plane))
        case "wrong_plane":
            return site.outpost("left-out", site.api.token(plane=plane), wanted="another plane")
        case _:
            site.elsewhere.version = b"7"
            return site.outpost("left-out", site.api.token(plane=plane))


REFUSALS: dict[str, tuple[type[CountermandError], str]] = {
    "unknown": (Unauthenticated, "does not accept the token"),
    "unbound": (Forbidden, "bound to no data plane"),
    "powerless": (Forbidden, "lacks the permission jobs:write"),
    "wrong_plane": (BadInput, "not to another plane"),
    "other_release": (Refused, "do not understand each other"),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_what_is_wrong_with_the_only_outpost_is_raised(site: Site, why: str) -> None:
    outpost = refused(site, why, site.api.given.plane)
    kind, words = REFUSALS[why]

    with pytest.raises(kind, match=words):
        await soon(serve_all([outpost], stopping=site.stopping, clock=site.time.clock()))


@pytest.mark.parametrize("why", [why for why in REFUSALS if why != "other_release"])
async def test_of_several_outposts_one_that_is_refused_is_told_once_and_tried_again_while_the_other_is_served(
    site: Site, why: str
) -> None:
    given, other = site.api.given, site.api.given.new_plane()
    refused(site, why, other)
    site.outpost("sound", site.api.token(plane=given.plane))
    work = started(given, site.engine)

    with capture_logs() as logs:
        async with site.at_work():
            await site.until(lambda: given.job(work.job_id).state is JobState.CANCELLED)
            await site.until_tried_again(3)

    [told] = lines(logs, "outpost_left_out")
    assert (told["log_level"], REFUSALS[why][1] in told["detail"]) == ("error", True)
    assert len(lines(logs, "worker_started")) == 1


async def test_another_release_is_told_once_for_each_outpost_and_served_when_it_has_gone(site: Site) -> None:
    given = site.api.given
    site.elsewhere.version = b"7"
    for name, plane in (("one", given.plane), ("two", given.new_plane())):
        site.outpost(name, site.api.token(plane=plane))

    with capture_logs() as logs:
        async with site.at_work():
            await site.until(lambda: len(lines(logs, "outpost_left_out")) == 2)
            await site.until_tried_again(4)
            site.elsewhere.version = None
            await site.until(lambda: len(lines(logs, "worker_started")) == 2, step_seconds=TRY_AGAIN_SECONDS)

    assert len(lines(logs, "outpost_left_out")) == 2


async def test_an_outpost_that_is_mended_is_served_without_a_new_start_and_one_whose_trouble_changes_is_told_anew(
    site: Site,
) -> None:
    given, other = site.api.given, site.api.given.new_plane()
    site.outpost("mended", UNKNOWN)
    site.outpost("sound", site.api.token(plane=other))
    work = started(given, site.engine)

    with capture_logs() as logs:
        async with site.at_work():
            await site.until(lambda: bool(lines(logs, "outpost_left_out")))
            site.tokens["mended"] = site.api.token([Permission.JOBS_READ], plane=given.plane)
            await site.until(lambda: len(lines(logs, "outpost_left_out")) == 2, step_seconds=TRY_AGAIN_SECONDS)
            site.tokens["mended"] = site.api.token(plane=given.plane)
            await site.until(lambda: len(lines(logs, "worker_started")) == 2, step_seconds=TRY_AGAIN_SECONDS)
            await site.until(lambda: given.job(work.job_id).state is JobState.CANCELLED)

    assert [line["detail"][:9] for line in lines(logs, "outpost_left_out")] == ["the contr", "the token"]


# --- what is told of clocks and tokens


@pytest.mark.parametrize(("ahead_seconds", "off"), [(0, []), (20, []), (40, [40.0]), (-3600, [-3600.0])])
async def test_a_clock_that_is_far_off_is_told(site: Site, ahead_seconds: float, off: list[float]) -> None:
    site.tokens["one"] = site.api.token(plane=site.api.given.plane)
    site.time.advance(ahead_seconds)

    with capture_logs() as logs:
        await introduce(site.line(), site.bearer("one"), wanted=None, clock=site.time.clock())

    assert [line["off_seconds"] for line in lines(logs, "clock_off")] == off


@pytest.mark.parametrize(("lifetime", "told"), [(None, 0), (8 * DAY, 0), (6 * DAY, 1)])
async def test_a_token_that_expires_within_a_week_is_told(site: Site, lifetime: timedelta | None, told: int) -> None:
    seconds = lifetime and lifetime.total_seconds()
    site.tokens["one"] = site.api.token(plane=site.api.given.plane, name="w", lifetime_seconds=seconds)

    with capture_logs() as logs:
        await introduce(site.line(), site.bearer("one"), wanted=None, clock=site.time.clock())

    assert [line["token"] for line in lines(logs, "token_expires_soon")] == ["w"] * told


async def test_a_plane_is_wanted_by_its_id_or_by_its_name(site: Site) -> None:
    plane = site.api.given.plane
    site.tokens["one"] = site.api.token(plane=plane)

    found = [
        await introduce(site.line(), site.bearer("one"), wanted=wanted, clock=site.time.clock())
        for wanted in (None, str(plane.data_plane_id), plane.display_name)
    ]

    assert {introduced.plane.data_plane_id for introduced in found} == {plane.data_plane_id}
    assert {introduced.installation for introduced in found} == {site.api.given.dispatch.installation()}


# --- tokens that are renewed


def revoke_all(api: Api) -> None:
    for token in api.desk.tokens.known():
        api.desk.tokens.revoke(token.token_id)


async def test_a_token_that_is_refused_is_read_anew_and_the_call_repeated(site: Site) -> None:
    plane = site.api.given.plane
    site.tokens["one"] = site.api.token(plane=plane)
    line, bearer = site.line(), site.bearer("one")
    revoke_all(site.api)  # before its first call: the API keeps in mind for a moment whom it let in
    site.tokens["one"] = site.api.token(plane=plane)

    introduced = await introduce(line, bearer, wanted=None, clock=site.time.clock())

    assert introduced.plane.data_plane_id == plane.data_plane_id


async def test_calls_under_way_with_the_old_token_are_all_repeated_with_the_new_one(site: Site) -> None:
    """A plane's process has several under way: a claim that waits, a heartbeat, a settlement."""
    plane = site.api.given.plane
    site.tokens["one"] = site.api.token(plane=plane)
    line, bearer = site.line(), site.bearer("one")
    revoke_all(site.api)
    site.tokens["one"] = site.api.token(plane=plane)
    refusals = asyncio.Barrier(3)

    async def meet(answer: httpx.Response) -> None:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await refusals.wait()

    site.elsewhere.before_answer = meet

    async with asyncio.timeout(ALLOWED_SECONDS):
        found = await asyncio.gather(
            *(introduce(line, bearer, wanted=None, clock=site.time.clock()) for _ in range(3)), return_exceptions=True
        )

    assert [error for error in found if isinstance(error, Exception)] == []


async def test_a_token_file_that_cannot_be_read_leaves_the_token_as_it_was(site: Site) -> None:
    site.tokens["one"] = site.api.token(plane=site.api.given.plane)

    def read() -> str:
        if "one" not in site.tokens:
            raise BadInput("token_file: it is not there")
        return site.tokens["one"]

    bearer = Bearer(read)
    before = bearer.header
    del site.tokens["one"]
    revoke_all(site.api)

    with pytest.raises(Unauthenticated):
        await introduce(site.line(), bearer, wanted=None, clock=site.time.clock())
    assert bearer.header == before
