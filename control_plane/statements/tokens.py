"""Bearer tokens: make, list, revoke, look up."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Insert,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from control_plane.schema import Uuid, tokens
from control_plane.statements.elements import among, now, rows, shifted

_SHOWN = [column for column in tokens.c if column.key != "hash"]


@lru_cache
def insert_token() -> Insert:
    """A new token, from bound columns; it expires ``:lifetime_seconds`` from now, or never where that is NULL."""
    lifetime = cast(bindparam("lifetime_seconds", type_=Float), Float)
    return (
        insert(tokens)
        .values(
            created_at=now(),
            expires_at=case((lifetime.is_not(None), shifted(now(), lifetime))),
        )
        .returning(*_SHOWN)
    )


@lru_cache
def select_tokens() -> Select[Any]:
    """The tokens of ``:company_id``, or everybody's where that is NULL; oldest first."""
    company = cast(bindparam("company_id", type_=Integer), Integer)
    return (
        select(*_SHOWN)
        .where(or_(company.is_(None), tokens.c.company_id == company))
        .order_by(tokens.c.created_at, tokens.c.token_id)
    )


@lru_cache
def revoke_token() -> Update:
    """Revoke ``:of_token``; the first revocation's moment stays."""
    return (
        update(tokens)
        .where(tokens.c.token_id == bindparam("of_token", type_=Uuid))
        .values(revoked_at=func.coalesce(tokens.c.revoked_at, now()))
        .returning(*_SHOWN)
    )


@lru_cache
def select_valid_tokens() -> Select[Any]:
    """Those of ``:rows`` that are neither revoked nor expired; *unnoted*: their use was not noted in this minute."""
    unnoted = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= _a_minute_ago())
    return select(tokens, unnoted.label("unnoted")).where(
        among(tokens.c.token_id, select(rows(token_id=Uuid).c.token_id)),
        tokens.c.revoked_at.is_(None),
        or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now()),
    )


@lru_cache
def select_ended_tokens() -> Select[Any]:
    """Those of ``:rows`` that are revoked or expired, or are not there."""
    wanted = rows(token_id=Uuid)
    valid = exists().where(
        tokens.c.token_id == wanted.c.token_id,
        tokens.c.revoked_at.is_(None),
        or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now()),
    )
    return select(wanted.c.token_id).where(~valid)


@lru_cache
def count_tokens() -> Select[Any]:
    """How many tokens there are, and how many of them are revoked or expired."""
    ended = or_(tokens.c.revoked_at.is_not(None), tokens.c.expires_at <= now())
    columns: list[ColumnElement[Any]] = [func.count().label("all"), func.count().filter(ended).label("ended")]
    return select(*columns).select_from(tokens)


@lru_cache
def note_use() -> Update:
    """Note that the tokens in ``:rows`` were used, at most once a minute: a use costs no write."""
    wanted = rows(token_id=Uuid)
    return (
        update(tokens)
        .where(
            and_(
                tokens.c.token_id == wanted.c.token_id,
                or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= _a_minute_ago()),
            )
        )
        .values(last_used_at=now())
    )


def _a_minute_ago() -> Any:
    return shifted(now(), bindparam("minute", -60.0, type_=Float))
