"""Bearer tokens: made, listed, recognised, used, and revoked."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from control_plane import schema
from control_plane.errors import BadInput, NotFound, Unauthenticated
from control_plane.jobs import ApiUser, Process
from control_plane.scope import Scope
from control_plane.store import Store
from control_plane.tokens import Caller, NewToken, Permission, Token, Tokens
from tests.integration.given import Clock, Given

READ, WRITE, ATTEST = Permission.JOBS_READ, Permission.JOBS_WRITE, Permission.JOBS_ATTEST


@pytest.fixture
def tokens(store: Store) -> Tokens:
    return Tokens(store)


def new(**fields: Any) -> NewToken:
    whole: dict[str, Any] = {"name": "nightly", "company_id": 1, "permissions": [READ]} | fields
    return NewToken(**whole)


def recognised(tokens: Tokens, text: str) -> Caller:
    [caller] = tokens.authenticate([text])
    assert isinstance(caller, Caller)
    return caller


def is_known(tokens: Tokens, text: str) -> bool:
    [answer] = tokens.authenticate([text])
    return isinstance(answer, Caller)


# --- making ----------------------------------------------------------------------------------------------------------


def test_who_bears_a_token_is_recognised_with_all_that_it_allows(tokens: Tokens, given: Given) -> None:
    plane = given.plane.data_plane_id

    token, text = tokens.create(new(permissions=[WRITE, READ], data_plane_id=plane, user_id=7))

    assert recognised(tokens, text) == Caller(token.token_id, "nightly", 1, frozenset({READ, WRITE}), plane, 7)


def test_a_token_has_256_random_bits_and_is_told_from_others_by_its_prefix(tokens: Tokens) -> None:
    token, text = tokens.create(new())
    _, another = tokens.create(new())

    prefix, name, secret = text.split("_", 2)

    assert (prefix, UUID(name)) == ("ctm", token.token_id)
    assert len(secret) == 43  # 32 bytes in base64
    assert secret != another.split("_", 2)[2]


def test_nothing_that_is_kept_or_listed_opens_anything(tokens: Tokens, store: Store) -> None:
    _, text = tokens.create(new())
    secret = text.split("_", 2)[2]

    with store.engine.connect() as connection:
        kept = [dict(row) for row in connection.execute(select(schema.tokens)).mappings()]

    assert secret not in str(kept)
    assert not is_known(tokens, text.replace(secret, kept[0]["hash"]))
    assert kept[0]["hash"] not in str(tokens.known())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "n" * 151}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"permissions": []}, "permissions"),
        ({"company_id": 0}, "company_id"),
        ({"company_id": 2**31}, "company_id"),
        ({"user_id": 0}, "user_id"),
        ({"user_id": 2**63}, "user_id"),
        ({"lifetime_seconds": 0.0}, "lifetime_seconds"),
        ({"lifetime_seconds": -1.0}, "lifetime_seconds"),
        ({"lifetime_seconds": float("nan")}, "lifetime_seconds"),
        ({"lifetime_seconds": float("inf")}, "lifetime_seconds"),
    ],
    ids=str,
)
def test_a_token_that_cannot_be_right_is_refused_naming_the_field(
    tokens: Tokens, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadInput) as caught:
        tokens.create(new(**fields))

    assert caught.value.field == field
    assert tokens.known() == []


def test_a_token_that_is_bound_to_a_plane_cannot_attest(tokens: Tokens, given: Given) -> None:
    with pytest.raises(BadInput, match="cannot attest") as caught:
        tokens.create(new(permissions=[WRITE, ATTEST], data_plane_id=given.plane.data_plane_id))

    assert caught.value.field == "permissions"


@pytest.mark.parametrize("whose", ["another company's", "nobody's", "shared"])
def test_a_token_is_bound_to_a_plane_of_its_own_company_alone(tokens: Tokens, given: Given, whose: str) -> None:
    """A collaborator's processes must not work the owner's plane."""
    plane = (
        uuid4()
        if whose == "nobody's"
        else given.new_plane(collaborators=[2] if whose == "shared" else []).data_plane_id
    )

    with pytest.raises(NotFound) as caught:
        tokens.create(new(company_id=2, data_plane_id=plane))

    assert caught.value.field == "data_plane_id"
    assert tokens.known() == []


# --- recognising -----------------------------------------------------------------------------------------------------


def unrecognised(tokens: Tokens, texts: Sequence[str]) -> list[str]:
    """The words for each."""
    answers = tokens.authenticate(texts)
    assert all(isinstance(answer, Unauthenticated) for answer in answers)
    return [str(answer) for answer in answers]


def test_what_is_no_valid_token_is_answered_with_the_same_words_whatever_is_wrong(tokens: Tokens, clock: Clock) -> None:
    token, text = tokens.create(new())
    revoked, of_revoked = tokens.create(new())
    tokens.revoke(revoked.token_id)
    _, expired = tokens.create(new(lifetime_seconds=10.0))
    clock.advance(10)
    _, name, secret = text.split("_", 2)

    words = unrecognised(
        tokens,
        [
            of_revoked,
            expired,
            f"ctm_{uuid4().hex}_{secret}",
            f"ctm_{name}_{of_revoked.split('_', 2)[2]}",
            f"ctm_{name}_",
            f"ctm_{name}",
            f"xyz_{name}_{secret}",
            f"ctm_not-hex_{secret}",
            secret,
            "",
            "_",
            text + "x",
            text[:-1],
            "ctm_\ud800_\ud800",
            "\0",
        ],
    )

    assert len(set(words)) == 1
    assert is_known(tokens, text)
    assert str(token.token_id) not in words[0]


def test_many_are_recognised_at_once_each_for_itself(tokens: Tokens) -> None:
    (one, of_one), (two, of_two) = tokens.create(new(name="one")), tokens.create(new(name="two"))

    answers = tokens.authenticate([of_two, "nonsense", of_one, of_two])

    names = [answer.name if isinstance(answer, Caller) else None for answer in answers]
    assert names == ["two", None, "one", "two"]
    assert tokens.authenticate([]) == []
    assert one != two


def test_one_of_many_with_a_wrong_secret_harms_not_the_right_one(tokens: Tokens) -> None:
    _, text = tokens.create(new())

    wrong, right = tokens.authenticate([text[:-1] + ("A" if text[-1] != "A" else "B"), text])

    assert isinstance(wrong, Unauthenticated)
    assert isinstance(right, Caller)


def test_a_token_expires_to_the_moment(tokens: Tokens, clock: Clock) -> None:
    token, text = tokens.create(new(lifetime_seconds=60.0))
    expires_at = clock.after(60)

    clock.advance(59.999)
    before = is_known(tokens, text)
    clock.advance(0.001)
    after = is_known(tokens, text)

    assert (token.expires_at, before, after) == (expires_at, True, False)


def test_a_token_without_a_lifetime_does_not_expire(tokens: Tokens, clock: Clock) -> None:
    token, text = tokens.create(new())

    clock.advance(100 * 365 * 86_400)

    assert token.expires_at is None
    assert is_known(tokens, text)


# --- using -----------------------------------------------------------------------------------------------------------


def used_at(tokens: Tokens) -> Any:
    [token] = tokens.known()
    return token.last_used_at


def test_a_tokens_last_use_is_noted_to_the_minute(tokens: Tokens, clock: Clock) -> None:
    _, text = tokens.create(new())
    unused = used_at(tokens)
    first = clock.now

    notes = []
    for seconds in (0, 59, 1):
        clock.advance(seconds)
        tokens.authenticate([text])
        notes.append(used_at(tokens))

    assert unused is None
    assert notes == [first, first, clock.now]


def test_a_wrong_secret_is_no_use_of_a_token(tokens: Tokens) -> None:
    _, text = tokens.create(new())

    tokens.authenticate([text[:-1]])

    assert used_at(tokens) is None


# --- listing and revoking --------------------------------------------------------------------------------------------


def test_a_company_lists_its_own_tokens_oldest_first_and_an_operator_everybodys(tokens: Tokens, clock: Clock) -> None:
    made: list[Token] = []
    for company in (1, 2, 1):
        made.append(tokens.create(new(company_id=company))[0])
        clock.advance(1)

    listed = [tokens.known(scope) for scope in (Scope(1), Scope(2), Scope(3), Scope())]

    assert listed[1:3] == [[made[1]], []]
    assert sorted(token.token_id for token in listed[0]) == sorted([made[0].token_id, made[2].token_id])
    assert listed[3] == sorted(made, key=lambda token: token.created_at)


def test_a_revoked_token_is_known_no_more_and_the_first_revocations_moment_stays(tokens: Tokens, clock: Clock) -> None:
    token, text = tokens.create(new())

    first = tokens.revoke(token.token_id)
    clock.advance(60)
    again = tokens.revoke(token.token_id)

    assert first == again
    assert first.revoked_at == clock.after(-60)
    assert not is_known(tokens, text)
    assert tokens.known() == [first]


def test_revoking_a_token_that_is_not_there_names_it(tokens: Tokens) -> None:
    with pytest.raises(NotFound) as caught:
        tokens.revoke(unknown := uuid4())

    assert caught.value.field == "token_id"
    assert str(unknown) in caught.value.message


# --- who calls -------------------------------------------------------------------------------------------------------


def test_a_persons_token_stands_for_the_person_and_another_for_its_name() -> None:
    person = Caller(uuid4(), "laptop", 3, frozenset({READ}), None, 7)
    script = Caller(uuid4(), "nightly", 3, frozenset({READ}), None, None)

    assert person.source == ApiUser(company_id=3, user_id=7)
    assert script.source == Process("token:nightly")


def test_a_caller_sees_what_its_company_sees_on_its_plane_alone_where_it_is_bound() -> None:
    plane = uuid4()

    bound = Caller(uuid4(), "operator", 3, frozenset({READ}), plane, None)

    assert bound.scope == Scope(3, plane)
