"""What the control plane's answers mean, and what is made of answers that are not the control plane's."""

import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeGuard, TypeVar

import httpx
import msgspec
from msgspec import Struct
from tenacity import RetryCallState

from control_plane.errors import BadInput, ControlPlaneUnavailable, CountermandError, StoreUnavailable

AWAY = {408, 429, 500, 502, 503, 504}  #: the statuses of a control plane that may answer otherwise later
AGAIN = {429, 502, 503, 504}  #: those of them after which a call is repeated at once
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  #: nothing has reached the server

Answer = TypeVar("Answer")


def read(response: httpx.Response, kind: type[Answer], url: str, *, repeatable: bool) -> Answer:
    """The noun that was answered; raises our own error for a problem, and BadInput for what is none of ours."""
    if not response.is_success:
        raise _doubted(_refusal(response, url), repeatable=repeatable)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _foreign(url, f"{_words(response)}, and in it: {error}") from error


def lost(error: httpx.RequestError, url: str, *, repeatable: bool) -> CountermandError:
    """What to raise where there is no answer, or none that can be unpacked."""
    if isinstance(error, httpx.DecodingError):
        return _foreign(url, "its answer cannot be unpacked")
    if _speaks_no_tls(error):
        return BadInput(f"url: what answers at {url} speaks no TLS: is it an http:// address?", field="url")
    if certificate := _certificate_error(error):
        wish = "correct the address, or name the authority's file in SSL_CERT_FILE (in tls.ca_file for a worker)"
        return BadInput(f"url: the certificate of {url} is not valid: {certificate}; {wish}", field="url")
    away = ControlPlaneUnavailable(f"the control plane at {url} is away: {_why(error)}")
    return _doubted(away, repeatable=repeatable or isinstance(error, NOT_SENT))


def _refusal(response: httpx.Response, url: str) -> CountermandError:
    problem = _problem(response)
    if problem is not None and problem.kind == "no-such-path":  # all of ours exist
        return _foreign(url, problem.detail)
    if problem is not None:
        return _known(problem, response.status_code)
    if response.status_code in AWAY:
        return ControlPlaneUnavailable(f"the control plane at {url} is away: it answered {_words(response)}")
    if response.is_redirect:
        return _foreign(url, f"it redirects to {response.headers['Location']}, which is not followed")
    if response.status_code == httpx.codes.BAD_REQUEST and b"SSL certificate" in response.content:  # nginx's words
        wish = "it takes none but those of its authority: give one as tls.client_certificate_file"
        return BadInput(
            f"url: {url} wants a certificate of whoever calls, and was not content with ours; {wish}", field="url"
        )
    return _foreign(url, _words(response))


def _foreign(url: str, what: str) -> BadInput:
    message = f"url: what answers at {url} is not this version's control plane: {what}"
    return BadInput(" ".join(message.split()), field="url")


def _doubted(error: CountermandError, *, repeatable: bool) -> CountermandError:
    """The error; one that leaves open whether the call was done says so, where that matters."""
    if repeatable or not isinstance(error, ControlPlaneUnavailable | StoreUnavailable):
        return error
    return type(error)(f"{error.message}; it may have been done all the same: look before you ask again")


class Problem(Struct, frozen=True):
    """What the API answers instead; ``type`` ends with our error's own name for itself."""

    type: str
    detail: str
    log_id: str | None = None

    @property
    def kind(self) -> str:
        return self.type.removeprefix("/problems/")


def _problem(response: httpx.Response) -> Problem | None:
    if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return None
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(response.content, type=Problem)
    return None


def _errors(kind: type[CountermandError] = CountermandError) -> Iterator[type[CountermandError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def _known(problem: Problem, status: int) -> CountermandError:
    """The problem as our own error again; what has no name here is told by its status."""
    by_name = {kind.problem_type: kind for kind in _errors() if "problem_type" in vars(kind)}  # no heir of a name
    otherwise = ControlPlaneUnavailable if status in AWAY else BadInput
    message = problem.detail
    if status >= 500 and problem.log_id is not None:
        message += f" (log_id {problem.log_id})"
    return by_name.get(problem.kind, otherwise)(" ".join(message.split()), field=_field(problem.detail))


def _field(detail: str) -> str | None:
    """A detail begins with the name of the field at fault, where there is one."""
    name, colon, _ = detail.partition(": ")
    return name if colon and name.replace("_", "").replace(".", "").isalnum() else None


#: Time heals an outage, but not these; somebody has to act first.
_LASTING = {"not-migrated", "not-granted"}


def is_worth_repeating(state: RetryCallState, *, repeatable: bool) -> bool:
    """Whether the attempt met what may pass, and nothing of it reached the server, or that does no harm."""
    error, response = _outcome_of(state)
    if response is not None:
        problem = _problem(response)
        lasts = problem is not None and problem.kind in _LASTING
        return repeatable and response.status_code in AGAIN and not lasts
    if not isinstance(error, httpx.TransportError) or _certificate_error(error) or _speaks_no_tls(error):
        return False
    return repeatable or isinstance(error, NOT_SENT)


def _outcome_of(state: RetryCallState) -> tuple[BaseException | None, httpx.Response | None]:
    assert state.outcome is not None  # noqa: S101  an attempt was made
    error = state.outcome.exception()
    return error, None if error else state.outcome.result()


def outcome(state: RetryCallState) -> httpx.Response:
    """The last attempt's answer, whatever it was; raises its error where there was none."""
    error, response = _outcome_of(state)
    if error is not None:
        raise error
    assert response is not None  # noqa: S101
    return response


def seen(state: RetryCallState) -> str:
    """What the attempt met, in a few words."""
    error, response = _outcome_of(state)
    return _words(response) if response is not None else _why(error)


def _why(error: BaseException | None) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    return str(error) or type(error).__name__


def _words(response: httpx.Response) -> str:
    kind = response.headers.get("Content-Type", "").partition(";")[0] or "nothing that is named"
    return f"{response.status_code} {response.reason_phrase} with {kind}"


def _certificate_error(error: BaseException) -> str | None:
    """What is wrong with the server's certificate, where that is why there is no connection."""
    return next((str(cause.verify_message) for cause in _tls_errors(error) if _is_about_certificate(cause)), None)


def _is_about_certificate(error: ssl.SSLError) -> TypeGuard[ssl.SSLCertVerificationError]:
    return isinstance(error, ssl.SSLCertVerificationError)


def _speaks_no_tls(error: BaseException) -> bool:
    """Whether the first that the server said was no TLS (OpenSSL's word for it)."""
    return any(cause.reason == "WRONG_VERSION_NUMBER" for cause in _tls_errors(error))


def _tls_errors(error: BaseException) -> Iterator[ssl.SSLError]:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            yield cause
        cause = cause.__cause__ or cause.__context__
