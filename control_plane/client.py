"""The way to the API that commands take: synchronous, patient within bounds, and without a database."""

import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
from msgspec import Struct
from tenacity import RetryCallState, Retrying, stop_before_delay, wait_exponential_jitter

from control_plane.answers import AWAY, is_worth_repeating, lost, outcome, read, seen
from control_plane.certificates import tls_context
from control_plane.checks import check_kept
from control_plane.errors import BadInput
from control_plane.jobs import Job, JobType
from control_plane.lifecycle import JobState
from control_plane.planes import Tracking
from control_plane.wire import (
    CancellationProgress,
    CancellationReason,
    DataPlanes,
    DataPlaneSubmission,
    DataPlaneView,
    Events,
    Evidence,
    Executors,
    JobSubmission,
    KnownExecutor,
    Order,
    Page,
    Whoami,
    Workers,
)

PATIENCE_SECONDS = 10.0
CONNECT_SECONDS = 3.0
LEAST_SECONDS = 1.0  #: for an attempt, however little patience is left

Answer = TypeVar("Answer")


class Client:
    """The control plane as the bearer of *token* sees it at *url*; raises the errors that the API answers as problems.

    A call that meets an outage is repeated for *patience_seconds*; one that is not idempotent only as long as nothing
    of it can have reached the server. *tell* is given one sentence when that begins. Closes with the context.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        tls: ssl.SSLContext | None = None,
        tell: Callable[[str], None] = lambda _: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        check_token(token)
        self._url = url
        self._patience_seconds = patience_seconds
        self._tell = tell
        self._pause = pause
        self._is_away = False
        with usable_proxies():
            self._http = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {token}", "User-Agent": "countermand"},
                verify=tls or tls_context(),  # reads SSL_CERT_FILE, whatever the next line says
                trust_env=not is_loopback(url),  # this machine is not asked by way of a proxy
            )

    def __repr__(self) -> str:
        return f"Client({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    # --- jobs

    def list_jobs(
        self,
        *,
        data_plane_id: UUID | None = None,
        dataset_id: int | None = None,
        type_: JobType | None = None,
        state: JobState | None = None,
        order_by: Order = Order.CREATED_AT_DESC,
        per_page: int = 100,
        offset: int = 0,
    ) -> Page:
        """One page of the jobs that match."""
        query = {
            "data_plane_id": data_plane_id,
            "dataset_id": dataset_id,
            "type": type_,
            "state": state,
            "order_by": order_by,
            "per_page": per_page,
            "offset": offset,
        }
        return self._call("GET", "/jobs", Page, query=query)

    def submit_job(self, submission: JobSubmission) -> Job:
        """Make a pending job; with an idempotency key repeatedly, and always the same."""
        return self._call("POST", "/jobs", Job, submission, idempotent=submission.idempotency_key is not None)

    def get_job(self, job_id: UUID) -> Job:
        """One job, with its cancellation and its receipt."""
        return self._call("GET", f"/jobs/{job_id}", Job)

    def list_job_events(self, job_id: UUID) -> Events:
        """Every move of a job, in order."""
        return self._call("GET", f"/jobs/{job_id}/events", Events)

    def get_cancellation(self, job_id: UUID) -> CancellationProgress:
        """How far a job's cancellation is; NotFound where nobody asked for one."""
        return self._call("GET", f"/jobs/{job_id}/cancellation", CancellationProgress)

    def request_cancellation(self, job_id: UUID, reason: str | None = None) -> Job:
        """Ask for a job to be cancelled, and answer it as the request left it. A no-op for one that has ended."""
        path = f"/jobs/{job_id}/request-cancellation"
        return self._call("POST", path, Job, CancellationReason(reason), idempotent=True)

    def attest(self, job_id: UUID, attestation: str) -> Job:
        """Cancel a job on the word of the person who bears the token; a no-op for one that has ended."""
        return self._call("POST", f"/jobs/{job_id}/cancel", Job, Evidence(attestation=attestation))

    # --- data planes

    def list_data_planes(self) -> list[DataPlaneView]:
        """Every data plane that the bearer may see."""
        return self._call("GET", "/data-planes", DataPlanes).records

    def create_data_plane(self, submission: DataPlaneSubmission) -> DataPlaneView:
        """Make a data plane."""
        return self._call("POST", "/data-planes", DataPlaneView, submission)

    def get_data_plane(self, data_plane_id: UUID) -> DataPlaneView:
        """One data plane."""
        return self._call("GET", f"/data-planes/{data_plane_id}", DataPlaneView)

    def archive_data_plane(self, data_plane_id: UUID) -> DataPlaneView:
        """Let a data plane take no more jobs; repeatable."""
        return self._call("DELETE", f"/data-planes/{data_plane_id}", DataPlaneView, idempotent=True)

    def allow_tracking(self, data_plane_id: UUID, tracking: Tracking) -> DataPlaneView:
        """Say whose work, started elsewhere, may be tracked and stopped on a data plane; repeatable."""
        path = f"/data-planes/{data_plane_id}/tracking"
        return self._call("PUT", path, DataPlaneView, tracking, idempotent=True)

    def list_workers(self, data_plane_id: UUID) -> Workers:
        """Who works on a data plane, and what waits there."""
        return self._call("GET", f"/data-planes/{data_plane_id}/workers", Workers)

    def list_executors(self, data_plane_id: UUID) -> list[KnownExecutor]:
        """Every executor that ever registered for the data plane that the token is bound to."""
        return self._call("GET", f"/data-planes/{data_plane_id}/executors", Executors).records

    def whoami(self) -> Whoami:
        """Who the bearer is, and what answers."""
        return self._call("GET", "/whoami", Whoami)

    # --- calling

    def _call(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        body: Struct | None = None,
        *,
        query: dict[str, Any] | None = None,
        idempotent: bool | None = None,
    ) -> Answer:
        request = self._http.build_request(
            method,
            path,
            params={name: str(value) for name, value in (query or {}).items() if value is not None},
            content=None if body is None else _written(body),
            headers={} if body is None else {"Content-Type": "application/json"},
        )
        repeatable = method == "GET" if idempotent is None else idempotent
        try:
            response = self._exchange(request, repeatable=repeatable)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise lost(error, self._url, repeatable=repeatable) from error
        self._tell_back(response)
        return read(response, kind, self._url, repeatable=repeatable)

    def _exchange(self, request: httpx.Request, *, repeatable: bool) -> httpx.Response:
        """The last answer, or the last error, once neither time nor another attempt would help."""
        deadline = time.monotonic() + self._patience_seconds
        retrying = Retrying(
            retry=lambda state: is_worth_repeating(state, repeatable=repeatable),
            wait=wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.2),
            stop=stop_before_delay(self._patience_seconds),
            before_sleep=self._tell_away,
            retry_error_callback=outcome,
            sleep=self._pause,
        )
        response: httpx.Response = retrying(self._attempt, request, deadline)
        return response

    def _attempt(self, request: httpx.Request, deadline: float) -> httpx.Response:
        left = max(deadline - time.monotonic(), LEAST_SECONDS)
        request.extensions["timeout"] = httpx.Timeout(left, connect=min(left, CONNECT_SECONDS)).as_dict()
        return self._http.send(request)

    def _tell_away(self, state: RetryCallState) -> None:
        if not self._is_away:
            self._is_away = True
            self._tell(f"the control plane at {self._url} does not answer ({seen(state)}); trying again")

    def _tell_back(self, response: httpx.Response) -> None:
        if self._is_away and response.status_code not in AWAY:
            self._is_away = False
            self._tell("the control plane answers again")


def check_token(token: str, field: str = "token") -> str:
    """The token; BadInput for one that no header carries (RFC 9110)."""
    if not re.fullmatch(r"[!-~]+", token):
        raise BadInput(f"{field}: it is not what `countermand tokens create` prints", field=field)
    return token


def is_loopback(url: str) -> bool:
    """Whether the address never leaves this machine."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


@contextmanager
def usable_proxies() -> Iterator[None]:
    """Where a way is opened that proxies of the environment may be part of: BadInput for those that cannot be."""
    try:
        yield
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # a scheme, SOCKS, a port
        told = "each should be http://host:port or https://host:port, or not be set"
        message = f"HTTPS_PROXY, HTTP_PROXY and ALL_PROXY: {told}; one of them cannot be used as a proxy's address"
        raise BadInput(message, field="HTTPS_PROXY") from error


def _written(body: Struct) -> bytes:
    """As JSON; BadInput for what JSON has no words for, which would otherwise travel as something else."""
    for name, value in msgspec.structs.asdict(body).items():
        check_kept(name, value)
    try:
        return msgspec.json.encode(body)
    except OverflowError as error:
        raise BadInput(f"body: a number in it is too large: {error}") from error
