"""Bearer tokens: shown once, kept as a hash, and bound to a company, to permissions, and perhaps to one plane."""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import RowMapping

from control_plane import statements
from control_plane.checks import LARGEST, check_kept, check_range
from control_plane.errors import BadInput, NotFound, StoreUnavailable, Unauthenticated
from control_plane.ids import new_id
from control_plane.jobs import ApiUser, Process, RequestSource
from control_plane.scope import OPERATOR, Scope
from control_plane.store import Store

_PREFIX = "ctm"  # lets scanners for leaked secrets recognise one


class Permission(StrEnum):
    """What a token lets its bearer do; ``write`` does not include ``read``."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    JOBS_ATTEST = "jobs:attest"
    DATA_PLANES_READ = "data_planes:read"
    DATA_PLANES_WRITE = "data_planes:write"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"


class NewToken(Struct, frozen=True):
    """What a token is made from. With a *data_plane_id* it is a plane's process; with a *user_id* a person's."""

    name: str
    company_id: int
    permissions: list[Permission]
    data_plane_id: UUID | None = None
    user_id: int | None = None
    lifetime_seconds: float | None = None


class Token(Struct, frozen=True):
    """A token as it is listed: everything but the secret, of which only a hash is kept."""

    token_id: UUID
    name: str
    company_id: int
    permissions: list[Permission]
    data_plane_id: UUID | None
    user_id: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None  #: to the minute


class Caller(Struct, frozen=True):
    """Who calls, as a token says."""

    token_id: UUID
    name: str
    company_id: int
    permissions: frozenset[Permission]
    data_plane_id: UUID | None
    user_id: int | None
    expires_at: datetime | None = None

    @property
    def source(self) -> RequestSource:
        """How the caller stands in jobs, cancellations and the audit."""
        if self.user_id is not None:
            return ApiUser(self.company_id, self.user_id)
        return Process(f"token:{self.name}")

    @property
    def scope(self) -> Scope:
        """Which jobs and planes the caller may see."""
        return Scope(self.company_id, self.data_plane_id)


class Tokens:
    """The tokens of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, new: NewToken) -> tuple[Token, str]:
        """Make a token; its text is answered here and never again. BadInput names a field that cannot be right."""
        _check(new)
        if new.data_plane_id is not None and not self._owns(new.company_id, new.data_plane_id):
            message = f"data_plane_id: company {new.company_id} has no data plane {new.data_plane_id}"
            raise NotFound(message, field="data_plane_id")
        token_id, secret = new_id(), secrets.token_urlsafe(32)
        made = self._store.perform(
            statements.insert_token(),
            **msgspec.to_builtins(new, builtin_types=(UUID,)),
            token_id=token_id,
            hash=_hash(secret),
        )
        return _token(made[0]), f"{_PREFIX}_{token_id.hex}_{secret}"

    def _owns(self, company_id: int, data_plane_id: UUID) -> bool:
        found = self._store.perform(statements.select_plane(), data_plane_id=data_plane_id)
        return bool(found) and found[0]["company_id"] == company_id

    def known(self, scope: Scope = OPERATOR) -> list[Token]:
        """The tokens of the scope's company, oldest first."""
        return [_token(row) for row in self._store.perform(statements.select_tokens(), company_id=scope.company_id)]

    def revoke(self, token_id: UUID) -> Token:
        """End a token for good; repeatable. NotFound when there is none."""
        revoked = self._store.perform(statements.revoke_token(), of_token=token_id)
        if not revoked:
            raise NotFound(f"token_id: there is no token {token_id}", field="token_id")
        return _token(revoked[0])

    def authenticate(self, texts: Sequence[str]) -> list[Caller | Unauthenticated]:
        """Who bears each of these tokens; one statement for all, and another once a minute to note their use.

        An unknown, a wrong, an expired and a revoked token are not told apart.
        """
        named = [_split(text) for text in texts]
        wanted = [{"token_id": token_id} for token_id in {token_id for token_id, _ in named if token_id is not None}]
        rows = self._store.perform(statements.select_valid_tokens(), wanted) if wanted else ()
        known = {row["token_id"]: row for row in rows}
        callers = [_caller(known.get(token_id) if token_id else None, secret) for token_id, secret in named]
        used = {caller.token_id for caller in callers if isinstance(caller, Caller)}
        self.note_use({token_id for token_id in used if known[token_id]["unnoted"]})
        return callers

    def note_use(self, token_ids: Collection[UUID]) -> None:
        """Note that these were used, once a minute; while the store is away it is noted another time."""
        if token_ids:
            with suppress(StoreUnavailable):
                self._store.perform(statements.note_use(), [{"token_id": token_id} for token_id in sorted(token_ids)])

    def counts(self) -> tuple[int, int]:
        """How many there are, and how many have ended: while neither changes, no token ends."""
        [counted] = self._store.perform(statements.count_tokens())
        return counted["all"], counted["ended"]

    def ended(self, token_ids: Collection[UUID]) -> set[UUID]:
        """Those of the tokens that are valid no more."""
        wanted = [{"token_id": token_id} for token_id in token_ids]
        found = self._store.perform(statements.select_ended_tokens(), wanted) if wanted else ()
        return {row["token_id"] for row in found}


def _check(new: NewToken) -> None:
    if not new.name.strip():
        raise BadInput("name: a name is needed", field="name")
    if not new.permissions:
        allowed = ", ".join(Permission)
        raise BadInput(f"permissions: at least one is needed of {allowed}", field="permissions")
    check_kept("name", new.name)
    check_range("company_id", new.company_id, 1, 2**31 - 1)
    check_range("user_id", new.user_id, 1, LARGEST)
    if len(new.name) > 150:
        raise BadInput("name: at most 150 characters are kept", field="name")
    if new.lifetime_seconds is not None and not 0 < new.lifetime_seconds < 10**10:
        message = f"lifetime_seconds: a number of seconds above 0 is needed, not {new.lifetime_seconds}"
        raise BadInput(message, field="lifetime_seconds")
    if new.data_plane_id is not None and Permission.JOBS_ATTEST in new.permissions:
        message = "permissions: a token bound to a plane cannot attest; a person does, with a token of their own"
        raise BadInput(message, field="permissions")


def _hash(secret: str) -> str:
    """Of 256 random bits a plain hash is enough: there is nothing to guess."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _split(text: str) -> tuple[UUID | None, str]:
    prefix, _, rest = text.partition("_")
    name, _, secret = rest.partition("_")
    try:
        return (UUID(hex=name) if prefix == _PREFIX else None), secret
    except ValueError:
        return None, secret


def _caller(row: RowMapping | None, secret: str) -> Caller | Unauthenticated:
    right = hmac.compare_digest(_hash(secret), row["hash"] if row else _hash(""))
    if row is None or not right:
        return Unauthenticated("the bearer token is not known, has expired or was revoked")
    return Caller(
        token_id=row["token_id"],
        name=row["name"],
        company_id=row["company_id"],
        permissions=frozenset(map(Permission, row["permissions"])),
        data_plane_id=row["data_plane_id"],
        user_id=row["user_id"],
        expires_at=row["expires_at"],
    )


def _token(row: RowMapping) -> Token:
    return msgspec.convert({name: row[name] for name in Token.__struct_fields__}, Token)
