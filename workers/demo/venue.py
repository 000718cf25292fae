"""Where the demo's Snowflake plane is: in the user's account, in a double of one on this machine, or nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

#: Not part of what is installed: in a checkout it is there to be run, and never imported here.
DOUBLE = "tests.doubles.snowflake"
EXTRAS = "server,worker,embedded,snowflake"
NEEDED = (
    "SNOWFLAKE_ACCOUNT, SNOWFLAKE_USER, SNOWFLAKE_PRIVATE_KEY_FILE (or another way to sign in), SNOWFLAKE_WAREHOUSE "
    "and SNOWFLAKE_DATABASE"
)
PAGE = "docs/snowflake.md"


class VenueKind(StrEnum):
    """What answers as Snowflake."""

    ACCOUNT = "account"
    DOUBLE = "double"


@dataclass(frozen=True)
class Venue:
    """*told* says it in a sentence; *variables* are an account's settings, for the processes that sign in there."""

    kind: VenueKind | None
    told: str
    variables: Mapping[str, str] = field(default_factory=dict)


def choose_venue(account: str | None, variables: Mapping[str, str], *, has_connector: bool, has_double: bool) -> Venue:
    """The account that is configured; else a double, where there is one; nowhere without the connector."""
    if not has_connector:
        return Venue(None, f"Without a Snowflake plane: install countermand[{EXTRAS}] to add one, and {_then(account)}")
    if account is not None:
        return Venue(VenueKind.ACCOUNT, f"The Snowflake plane is the account {account}.", variables)
    if has_double:
        told = "No Snowflake account is configured: the Snowflake plane is a double of one on this machine."
        return Venue(VenueKind.DOUBLE, told)
    return Venue(None, f"Without a Snowflake plane, as no account is configured: to add one, {_then(account)}")


def _then(account: str | None) -> str:
    return f"it will be in {account}." if account is not None else f"set {NEEDED}; see {PAGE}."


def has_connector() -> bool:
    """Whether Snowflake's connector is installed; it is not imported."""
    return find_spec("snowflake") is not None and find_spec("snowflake.connector") is not None


def has_double() -> bool:
    """Whether this is a checkout. To look for a package within another would import that one: files are looked for."""
    top, *below = DOUBLE.split(".")
    spec = find_spec(top)
    places = spec.submodule_search_locations if spec is not None else None
    return any(Path(place, *below, "__main__.py").is_file() for place in places or ())
