"""A Snowflake account: where it answers, who signs in, and for how long one waits.

What neither our variables (``COUNTERMAND_SNOWFLAKE__USER``) nor the file say is taken from those that Snowflake's own
tools read (``SNOWFLAKE_USER``), so that a machine set up for them needs nothing else. They come last: they were not
written for us.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from config.section import Seconds, Section, Wrong, allowed, validated

Side = Literal["worker", "executor"]

SIDES: tuple[Side, ...] = ("worker", "executor")
WAYS = ("private_key_file", "token_file", "token", "workload_identity")
_KEY = ("private_key_file", "private_key_password", "private_key_password_file")
_TOKEN = ("token", "token_file")
#: What a source (or a side's own section) takes out of those below it by giving a setting: else two ways would mix.
REPLACED_BY: Mapping[str, tuple[str, ...]] = {
    "private_key_file": (*_KEY, *_TOKEN, "token_kind", "workload_identity"),
    "private_key_password": ("private_key_password_file",),
    "private_key_password_file": ("private_key_password",),
    "token": (*_KEY, "token_file"),
    "token_file": (*_KEY, "token"),
    "workload_identity": (*_KEY, *_TOKEN, "token_kind"),
}


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def check_account(name: str) -> str:
    """Accept an account identifier; an address of the account holds it, and is often given in its place."""
    if not re.fullmatch(r"[\w.-]+", name) or name.lower().endswith(".snowflakecomputing.com"):
        raise allowed("an account identifier such as MYORG-MYACCOUNT: no https://, no .snowflakecomputing.com")
    return name


def check_host(host: str) -> str:
    """Accept a host alone."""
    if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+", host):
        raise allowed("a host alone, without https:// and without a port")
    return host


def check_identifier(name: str) -> str:
    """Accept a name that needs no quotes in SQL, in the capitals that Snowflake makes of it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,254}", name):
        raise allowed("a name that needs no quotes: letters, digits, _ and $, not beginning with a digit")
    return name.upper()


def check_protocol(protocol: str, info: ValidationInfo) -> str:
    """Accept plain HTTP to this machine alone: a secret would travel with it."""
    if protocol == "http" and not is_loopback(info.data.get("host")):
        raise allowed("'https', unless host is a loopback address: a secret would travel unencrypted")
    return protocol


def is_loopback(host: str | None) -> bool:
    """Whether the host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


Identifier = Annotated[str, AfterValidator(check_identifier)]
Text = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]


class SignInSettings(Section):
    """As whom one signs in, and how: by a key pair, a token, or the identity that a cloud gives the machine."""

    user: Text | None = None
    role: Text | None = None
    private_key_file: Path | None = None
    private_key_password: Secret | None = None
    private_key_password_file: Path | None = None
    token: Secret | None = None
    token_file: Path | None = None
    token_kind: Annotated[Literal["pat", "oauth"], BeforeValidator(lower)] | None = None
    workload_identity: Annotated[Literal["AWS", "AZURE", "GCP", "OIDC"], BeforeValidator(upper)] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def there_is_one_way_to_sign_in(cls, told: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse two. That there is any at all is seen when it is needed: the other section may have it."""
        why = contradiction(sign_in_told(told))
        section: Self = validated(told, handler, [Wrong((), allowed(why))] if why else [])
        return section

    def given(self) -> dict[str, Any]:
        """What is set."""
        found = {name: getattr(self, name) for name in SignInSettings.model_fields}
        return {name: value for name, value in found.items() if value is not None}


class SnowflakeSettings(SignInSettings):
    """The account, and the sign-in of whichever side has none of its own."""

    account: Annotated[str, AfterValidator(check_account)] | None = None
    host: Annotated[str, AfterValidator(check_host)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    protocol: Annotated[Literal["https", "http"], BeforeValidator(lower), AfterValidator(check_protocol)] = "https"
    warehouse: Identifier | None = None
    database: Identifier | None = None
    statement_timeout_seconds: Annotated[int, Field(ge=1, le=604_800)] = 4 * 3600
    queued_timeout_seconds: Annotated[int, Field(ge=1, le=604_800)] = 3600
    call_timeout_seconds: Seconds = 10.0
    worker: SignInSettings = Field(default_factory=SignInSettings)
    executor: SignInSettings = Field(default_factory=SignInSettings)

    @model_validator(mode="wrap")
    @classmethod
    def no_side_contradicts_what_it_inherits(cls, told: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse what only shows when a side's own section is put on top of the common one."""
        section: Self = validated(told, handler, list(inherited_contradictions(told)))
        return section

    def sign_in(self, side: Side) -> SignInSettings:
        """As whom the side signs in. One that names its own user has nothing from the other; else it adds its own."""
        own: SignInSettings = getattr(self, side)
        return SignInSettings.model_construct(**inheriting(own.given(), self.given()))


def sign_in_told(section: object) -> dict[str, Any]:
    """What a section says of a sign-in before it is validated: what names it, not what it is."""
    told = section if isinstance(section, Mapping) else {}
    return {name: told[name] for name in SignInSettings.model_fields if told.get(name) is not None}


def inheriting(own: Mapping[str, Any], common: Mapping[str, Any]) -> Mapping[str, Any]:
    """A side's sign-in: its own alone where it names its user, else on top of the common one."""
    return own if "user" in own else {k: v for k, v in merged(own, common).items() if v is not None}


def inherited_contradictions(told: object) -> Iterator[Wrong]:
    """What is wrong with a side that is right in itself, as is what it inherits."""
    common, sections = sign_in_told(told), told if isinstance(told, Mapping) else {}
    for side in () if contradiction(common) else SIDES:
        own = sign_in_told(sections.get(side))
        why = None if contradiction(own) else contradiction(inheriting(own, common))
        if why:
            yield Wrong((), allowed(f"such that {side}, with what it inherits, is {why}"))


def contradiction(told: Mapping[str, Any]) -> str | None:
    """What a sign-in should be instead; None where nothing of it contradicts the rest."""
    if {"private_key_password", "private_key_password_file"} <= told.keys():
        return "given one of private_key_password and private_key_password_file, not both"
    ways = [way for way in WAYS if way in told]
    by_oidc = upper(told.get("workload_identity")) == "OIDC" and len(ways) == 2 and ways[0] in _TOKEN
    if len(ways) > 1 and not by_oidc:
        return f"given one way to sign in, not {' and '.join(ways)}: keep one of them"
    return None


def merged(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Both, without what the upper one replaces in the lower one."""
    return {**below, **replacing(above, REPLACED_BY)}


def replacing(told: Mapping[str, Any], replaced_by: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """What is told, with a None for each setting below that it takes the place of."""
    replaced = {name for given in told if told[given] is not None for name in replaced_by.get(given, ())}
    return {**dict.fromkeys(replaced), **told}


# --- the variables of Snowflake's own tools

#: By setting: its variables, of which the first that is set counts.
CUSTOMARY: Mapping[str, tuple[str, ...]] = {
    "account": ("SNOWFLAKE_ACCOUNT",),
    "host": ("SNOWFLAKE_HOST",),
    "port": ("SNOWFLAKE_PORT",),
    "protocol": ("SNOWFLAKE_PROTOCOL",),
    "warehouse": ("SNOWFLAKE_WAREHOUSE",),
    "database": ("SNOWFLAKE_DATABASE",),
    "user": ("SNOWFLAKE_USER",),
    "role": ("SNOWFLAKE_ROLE",),
    "private_key_file": ("SNOWFLAKE_PRIVATE_KEY_FILE", "SNOWFLAKE_PRIVATE_KEY_PATH"),
    "private_key_password": ("SNOWFLAKE_PRIVATE_KEY_PASSWORD", "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE"),
    "token": ("SNOWFLAKE_TOKEN",),
    "token_file": ("SNOWFLAKE_TOKEN_FILE_PATH",),
    "workload_identity": ("SNOWFLAKE_WORKLOAD_IDENTITY_PROVIDER",),
}
_KIND = "SNOWFLAKE_AUTHENTICATOR"
#: What each authenticator signs in by; nothing of the others' is of use to us, because they need a person.
_USED_BY: Mapping[str, tuple[str, ...]] = {
    "SNOWFLAKE_JWT": ("private_key_file", "private_key_password"),
    "PROGRAMMATIC_ACCESS_TOKEN": _TOKEN,
    "OAUTH": _TOKEN,
    "WORKLOAD_IDENTITY": ("workload_identity", *_TOKEN),
}
_SECRETS = (*_KEY, *_TOKEN, "token_kind", "workload_identity")


def customary(environment: Mapping[str, str], above: Mapping[str, Any]) -> dict[str, Any]:
    """What the customary variables add to what is set *above* them.

    Another account's address, and another user's role and secrets, are left out; so are all secrets where a way to sign
    in is set above.
    """
    told = _way_to_sign_in({name: value for name in CUSTOMARY if (value := _first(name, environment))}, environment)
    foreign: set[str] = set()
    if _differ(told, above, "account"):
        foreign |= {"host", "port", "protocol"}
    if _differ(told, above, "user"):
        foreign |= {"role", *_SECRETS}
    if any(above.get(way) is not None for way in WAYS):
        foreign |= set(_SECRETS)
    return {name: value for name, value in told.items() if name not in foreign}


def _first(name: str, environment: Mapping[str, str]) -> str | None:
    return next((value for variable in CUSTOMARY[name] if (value := environment.get(variable))), None)


def _differ(told: Mapping[str, Any], above: Mapping[str, Any], name: str) -> bool:
    one, other = told.get(name), above.get(name)
    return one is not None and other is not None and str(one).casefold() != str(other).casefold()


def _way_to_sign_in(told: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Keep what the authenticator uses; where none is named, a key pair, else a token."""
    authenticator = environment.get(_KIND, "").upper()
    by_what_there_is = "SNOWFLAKE_JWT" if "private_key_file" in told else "PROGRAMMATIC_ACCESS_TOKEN"
    used = _USED_BY.get(authenticator or by_what_there_is, ())
    kept = {name: value for name, value in told.items() if name not in _SECRETS or name in used}
    if "token" in kept:
        kept.pop("token_file", None)
    return kept | ({"token_kind": "oauth"} if authenticator == "OAUTH" else {})
