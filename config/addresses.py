"""Where something answers, as a setting gives it."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from config.section import allowed

ADDRESS = "http://host:port or https://host"


def check_database_url(url: str) -> str:
    """Accept a SQLite file or a Postgres server, under the one name that SQLAlchemy has for it."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest.strip("/") not in {"", ":memory:"}:
        return url
    if scheme in {"postgres", "postgresql", "postgresql+psycopg"} and rest:
        return f"postgresql://{rest}"
    raise allowed("sqlite:///<file> or postgresql://<user>@<host>/<database>")


def check_address(address: str) -> str:
    """Accept ``host:port``, an IPv6 host in brackets."""
    try:
        parts = urlsplit(f"//{address}")
        usable = parts.hostname and parts.port and parts.netloc == address and not parts.username
    except ValueError:
        usable = False
    if not usable:
        raise allowed("host:port, for example 0.0.0.0:8470")
    return address


def check_url(url: str) -> str:
    """Accept where a control plane answers; a token is kept apart from its address, which is shown to everybody."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        raise allowed(ADDRESS) from None
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise allowed(ADDRESS)
    if "@" in parts.netloc:
        raise allowed("without a name and a password: a token is given as COUNTERMAND_TOKEN, or by token_file")
    if parts.query or parts.fragment:
        raise allowed(f"{ADDRESS}, without a query and a fragment")
    return url


DatabaseUrl = Annotated[str, AfterValidator(check_database_url)]
HostAndPort = Annotated[str, AfterValidator(check_address)]
Url = Annotated[str, AfterValidator(check_url)]
