"""The line to a standalone master: its submission REST API, and what it says of a driver.

Source: Spark's ``org.apache.spark.deploy.rest`` and ``…deploy.master.Master`` (4.3.0). The master's list of drivers and
applications is no evidence: it names no driver's tag, and shows a killed application as FINISHED. What counts is
``driverState``, asked by the driver's id.
"""

import asyncio
import ssl
from collections.abc import Collection, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Struct

from adapters.base import Trouble
from adapters.narrative.spark_standalone_answers import Applications, Executors, Leading, Told, Workers
from adapters.narrative.spark_standalone_fates import DRIVER_ID, Fate
from adapters.narrative.spark_standalone_places import Place, master_ui, rest_server, worker_ui
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Waiting

Kind = TypeVar("Kind", bound=Struct)

ENGINE = "spark-standalone"
#: Between two looks at an application that ends: that takes it half a second, and a look 8 ms of the master's time.
LOOK_AGAIN_SECONDS = 0.1
AT_ONCE = 16  #: calls under way at the same time
NOBODY = "driver-of-nobody"  #: the name of no driver: the master's are made of a time and a number
#: Answers after which the master has created nothing; 468: it does not speak this version of the protocol.
REFUSALS = frozenset({400, 401, 403, 404, 405, 413, 468})
OF_THE_REQUEST = frozenset({400, 413})  #: what was sent is wrong, and not where it was sent


class MasterError(EngineUnavailable):
    """The master gave no answer that proves anything; *trouble* says why, in one sentence.

    Of a submission: *nothing_sent*, so that it may be sent again; *refused*, so that nothing came of it. Where it is
    neither, nobody knows whether a driver was created.
    """

    def __init__(self, waiting: Waiting, detail: str, *, nothing_sent: bool = False, refused: bool = False) -> None:
        super().__init__(detail)
        self.trouble = Trouble(waiting, detail)
        self.nothing_sent = nothing_sent
        self.refused = refused


class MasterLine:
    """Calls to one master; none lasts longer than *timeout_seconds*, whatever the server does.

    *ui_url* is its web UI. *token* is sent as a bearer's (``spark.master.rest.filters``), and to
    no web UI.
    """

    def __init__(self, master_url: str, *, timeout_seconds: float, ui_url: str, token: str | None = None) -> None:
        self._master = rest_server(master_url)
        self._ui = master_ui(ui_url)
        self._timeout_seconds = timeout_seconds
        self._free = asyncio.Semaphore(AT_ONCE)
        # A connection for each call: over a kept one a submission that was never sent looks like one without an answer.
        transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._authorization = {} if token is None else {"authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(transport=transport, timeout=None)  # noqa: S113  bounded as a whole, below

    @property
    def url(self) -> str:
        """Of the master's REST server."""
        return self._master.url

    async def submit(self, submission: Mapping[str, Any]) -> str:
        """Have a driver created; answers its id. Raises MasterError, which says whether one may exist all the same."""
        told, _ = await self._ask("POST", "/v1/submissions/create", {"action": "CreateSubmissionRequest", **submission})
        if told.success is False:  # it is not the leader, or not yet: nothing was created
            raise MasterError(Waiting.PLANE_SILENT, self._said(told.message), nothing_sent=True)
        if told.submission_id is None or not DRIVER_ID.fullmatch(told.submission_id):
            raise MasterError(Waiting.ADAPTER_ERROR, self._said(f"a submission with the id {told.submission_id!r}"))
        return told.submission_id

    async def kill(self, driver_id: str) -> bool:
        """Ask for the driver's end; False where the master says that there is nothing to kill, or that it cannot."""
        told, _ = await self._ask("POST", f"/v1/submissions/kill/{driver_id}")
        return told.success is True

    async def fate(self, driver_id: str) -> Fate:
        """What the master says of the driver now."""
        told, told_at = await self._ask("GET", f"/v1/submissions/status/{driver_id}")
        if told.submission_id != driver_id:
            raise MasterError(Waiting.ADAPTER_ERROR, self._said(f"of {told.submission_id!r}, asked about {driver_id}"))
        state = (told.driver_state or "") if told.success else ""
        return Fate(state, told.message or "", told_at, told.worker_host_port or "")

    async def fates(self, driver_ids: Collection[str]) -> dict[str, Fate]:
        """The same of each, by its id; what is no driver's id is left out."""
        known = sorted({driver_id for driver_id in driver_ids if DRIVER_ID.fullmatch(driver_id)})
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self.fate(driver_id)) for driver_id in known]
        except* MasterError as failed:
            raise failed.exceptions[0] from failed
        return {driver_id: task.result() for driver_id, task in zip(known, asked, strict=True)}

    async def with_executors(self, names: Collection[str], also_at: Collection[str] = ()) -> frozenset[str]:
        """Which of these applications may still have executors.

        The master drops an application, executors and all, when its driver is gone, while its workers may take ten
        seconds to end those. So each worker is asked, unless the master itself shows them all: the workers that it
        has, and those whose web UIs are *also_at*, since a master that was started again may have no worker yet.
        """
        shown = {app.name for app in (await self._look(self._ui, "/json/activeapps", Applications)).activeapps}
        if not shown.issuperset(names):
            shown |= await self._with_executors_at((await self._workers()).union(also_at))
        return frozenset(shown.intersection(names))

    async def _workers(self) -> set[str]:
        """The web UIs of the workers that the master has."""
        known = (await self._look(self._ui, "/json/workers", Workers)).workers
        return {worker.webuiaddress.rstrip("/") for worker in known if worker.state == "ALIVE"}

    async def _with_executors_at(self, places: Collection[str]) -> set[str]:
        """The names of the applications of which the workers with these web UIs run executors."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._look(worker_ui(url), "/json/", Executors)) for url in sorted(places)]
        except* MasterError as failed:
            raise failed.exceptions[0] from failed
        return {executor.appdesc.name for told in asked for executor in told.result().executors}

    async def _look(self, ui: Place, path: str, kind: type[Kind]) -> Kind:
        return _decoded(await self._send("GET", ui, path), kind, ui)

    async def try_orders(self) -> str:
        """Kill a driver that does not exist, which shows whether orders are taken here; answers the Spark's version.

        Raises MasterError where they are not.
        """
        told, _ = await self._ask("POST", f"/v1/submissions/kill/{NOBODY}")
        message = told.message or ""
        if told.success is not False or NOBODY not in message:  # a master that is not the leader says so instead
            raise MasterError(Waiting.PLANE_SILENT, self._said(message))
        return told.server_spark_version or "unknown"

    async def try_ui(self) -> int:
        """How many workers there are, where their web UIs and the master's show what they are asked for.

        Raises MasterError where they do not; that of a master which does not lead shows nothing.
        """
        status = (await self._look(self._ui, "/json/status", Leading)).status
        if status != "ALIVE":
            detail = f"{self._ui} is that of a master which does not lead ({status}), and shows no applications"
            raise MasterError(Waiting.PLANE_SILENT, detail)
        await self._look(self._ui, "/json/activeapps", Applications)
        await self._with_executors_at(workers := await self._workers())
        return len(workers)

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[Told, datetime | None]:
        response = await self._send(method, self._master, path, body, **self._authorization)
        return _decoded(response, Told, self._master), _told_at(response)

    async def _send(
        self, method: str, place: Place, path: str, body: Mapping[str, Any] | None = None, **headers: str
    ) -> httpx.Response:
        """The answer, if it is a good one."""
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            headers["content-type"] = "application/json;charset=utf-8"
        try:
            async with self._free, asyncio.timeout(self._timeout_seconds):
                response = await self._client.request(method, place.url + path, content=content, headers=headers)
        except TimeoutError as error:
            detail = f"{place} did not answer within {self._timeout_seconds:g} s"
            raise MasterError(Waiting.PLANE_SILENT, detail) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            nothing_sent = isinstance(error, httpx.ConnectError | httpx.InvalidURL | httpx.UnsupportedProtocol)
            detail = f"{place} cannot be reached: {str(error) or type(error).__name__}; {place.remedy}"
            raise MasterError(Waiting.PLANE_SILENT, detail, nothing_sent=nothing_sent) from error
        if response.status_code != httpx.codes.OK:
            raise _rejection(response, place)
        return response

    def _said(self, what: str | None) -> str:
        return f"{self._master} answered {what or 'nothing'}"


def _decoded(response: httpx.Response, kind: type[Kind], place: Place) -> Kind:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        detail = f"{place} answered something else than its protocol: {error}; {place.remedy}"
        raise MasterError(Waiting.ADAPTER_ERROR, detail) from error


def _rejection(response: httpx.Response, place: Place) -> MasterError:
    status = response.status_code
    detail = f"{place} answered {status}: {_first_line(response)}"
    match status:
        case 401 | 403:
            waiting = Waiting.NOT_PERMITTED
            detail += f"; {place.admission}" if place.admission else ""
        case _ if status < 500:
            waiting = Waiting.ADAPTER_ERROR
            detail += f"; {place.remedy}" if status not in OF_THE_REQUEST else ""
        case _:
            waiting = Waiting.PLANE_SILENT
    return MasterError(waiting, detail, refused=status in REFUSALS)


def _first_line(response: httpx.Response) -> str:
    try:
        message = msgspec.json.decode(response.content, type=Told).message
    except msgspec.DecodeError:
        message = None
    return (message or response.reason_phrase).strip().partition("\n")[0]


def _told_at(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return None
