"""What can go wrong, as one tree. A subclass exists where a caller acts differently.

CountermandError
├── BadInput             tell the user: what was given cannot be right      exit 2, HTTP 400
│   └── NotCancellable   the plane cannot cancel this type of job           exit 6, HTTP 422
├── Unauthenticated      tell the caller: no token, or none that counts     exit 11, HTTP 401
├── Forbidden            tell the caller: the token does not allow it       exit 12, HTTP 403
├── NotFound             tell the user: there is no such thing              exit 5, HTTP 404
├── Conflict             tell the user: the thing is not in a fit state     exit 7, HTTP 409
├── NotMigrated          stop: an operator has to migrate the database      exit 8, HTTP 503
├── Unavailable          retry: whoever keeps the jobs is away              exit 9, HTTP 503
│   ├── StoreUnavailable         it is the database                         exit 9, HTTP 503
│   │   └── RowLocked            somebody holds what was to be changed      exit 9, HTTP 503
│   └── ControlPlaneUnavailable  it is the control plane                    exit 9
├── NotGranted           stop: the database's operator has to grant         exit 10
├── Refused              stop: this process may not go on                   exit 10
└── EngineUnavailable    retry: the engine did not answer                exit 9
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the command answers to the shell; documented in ``docs/reference/commands.md``."""

    OK = 0
    UNEXPECTED = 1
    BAD_INPUT = 2
    COMPLETED_FIRST = 3
    STUCK = 4
    NOT_FOUND = 5
    NOT_CANCELLABLE = 6
    CONFLICT = 7
    NOT_MIGRATED = 8
    UNAVAILABLE = 9
    REFUSED = 10
    UNAUTHENTICATED = 11
    FORBIDDEN = 12
    UNPROVEN = 13
    CHECK_FAILED = 14


class CountermandError(Exception):
    """The base: *message* is one sentence for a person, *field* names the input at fault where there is one."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED
    problem_type: ClassVar[str] = "unexpected"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadInput(CountermandError):
    """What was given cannot be right; the message names the field and what is allowed. Nothing was changed."""

    exit_code = ExitCode.BAD_INPUT
    problem_type = "bad-input"


class NotCancellable(BadInput):
    """Jobs of this type cannot be cancelled on this platform; the message names those that can."""

    exit_code = ExitCode.NOT_CANCELLABLE
    problem_type = "not-cancellable"


class Unauthenticated(CountermandError):
    """Nobody is known to call: no token, or one that is unknown, wrong, expired or revoked, which is not told apart."""

    exit_code = ExitCode.UNAUTHENTICATED
    problem_type = "unauthenticated"


class Forbidden(CountermandError):
    """The caller is known, and may not do this; the message names the permission that is missing."""

    exit_code = ExitCode.FORBIDDEN
    problem_type = "forbidden"


class NotFound(CountermandError):
    """There is no such thing, or it belongs to somebody else: the two are not told apart."""

    exit_code = ExitCode.NOT_FOUND
    problem_type = "not-found"


class Conflict(CountermandError):
    """The thing exists, but its state does not allow what was asked. Nothing was changed."""

    exit_code = ExitCode.CONFLICT
    problem_type = "conflict"


class NotMigrated(CountermandError):
    """The database has not the schema that this version needs; the message names the command that mends it."""

    exit_code = ExitCode.NOT_MIGRATED
    problem_type = "not-migrated"


class Unavailable(CountermandError):
    """Whoever keeps the jobs could not be reached, or went away; the call may be repeated."""

    exit_code = ExitCode.UNAVAILABLE
    problem_type = "unavailable"


class StoreUnavailable(Unavailable):
    """The database could not be reached, or went away; the call may be repeated."""

    problem_type = "store-unavailable"


class ControlPlaneUnavailable(Unavailable):
    """The control plane did not answer, or something before it did in its place; the message says what was seen.

    A user's call that may be repeated was repeated already; the message says of any other that it may have been done.
    """

    problem_type = "control-plane-unavailable"


class RowLocked(StoreUnavailable):
    """Somebody holds a row that was to be changed for longer than is waited; the others of a batch may go on."""

    problem_type = "row-locked"


class NotGranted(CountermandError):
    """The database's role may not do what was asked; not Refused, for which an executor gives its data folder up."""

    exit_code = ExitCode.REFUSED
    problem_type = "not-granted"


class Refused(CountermandError):
    """This process may not go on: its folder is held by another, its address is open without a token, and the like."""

    exit_code = ExitCode.REFUSED
    problem_type = "refused"


class EngineUnavailable(CountermandError):
    """The engine did not answer, or not in time. It says nothing about what runs there."""

    exit_code = ExitCode.UNAVAILABLE
    problem_type = "engine-unavailable"
