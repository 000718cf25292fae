"""From the settings to a Snowflake account, and to whoever signs in there; nothing of Snowflake is imported before."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from config.settings import variable_of
from config.snowflake import CUSTOMARY
from control_plane.errors import BadInput, Refused
from workers.cli.desk import at_home, read_secret

if TYPE_CHECKING:
    from adapters.snowflake.account import Account, SignIn
    from config.settings import Settings
    from config.snowflake import Side, SignInSettings

COMMON = "snowflake"  #: the section of the account that planes have without one of their own
log = structlog.get_logger()


def account_of(settings: "Settings", section: str = COMMON) -> "Account":
    """The configured account, which stands in *section*. BadInput names what is missing, Refused the extra."""
    from adapters.snowflake.account import Account

    own = settings.snowflake
    name = _needed(own.account, "account", "no account is configured", section)
    need_connector()
    return Account(
        account=name,
        database=_needed(own.database, "database", "nothing says in which database outputs lie", section),
        host=own.host,
        port=own.port,
        protocol=own.protocol,
        warehouse=own.warehouse,
    )


def sign_in_of(settings: "Settings", side: "Side", account: str = COMMON) -> "SignIn":
    """As whom the side signs in to the account in that section. BadInput names what is missing, contradictory, or not
    readable."""
    from adapters.snowflake.account import SignIn, TokenKind

    own = settings.snowflake.sign_in(side)
    section = f"{account}.{side}"
    user = _needed(own.user, "user", f"nobody is named to sign in for the {side}", account, f"[{section}] or ")
    _refuse_incomplete(own, section, user)
    password = own.private_key_password
    if own.private_key_password_file is not None:
        password = read_secret(own.private_key_password_file, f"{section}.private_key_password_file")
    return SignIn(
        user=user,
        role=own.role,
        private_key_file=_readable(own.private_key_file, f"{section}.private_key_file"),
        private_key_password=password,
        token=own.token,
        token_file=_readable(own.token_file, f"{section}.token_file"),
        token_kind={"pat": TokenKind.PROGRAMMATIC, "oauth": TokenKind.OAUTH}[own.token_kind or "pat"],
        workload_identity=own.workload_identity,
    )


def warehouse_of(settings: "Settings") -> str:
    """Where jobs run. BadInput where none is configured: cancelling needs none, running does."""
    return _needed(settings.snowflake.warehouse, "warehouse", "jobs need one to run on")


def adapter_options(settings: "Settings", section: str = COMMON) -> Mapping[str, Any]:
    """What the adapter is told: the account in *section*, the worker's sign-in, and what is known of the executor's."""
    _refuse_calls_longer_than_a_lease(settings)
    executor_user = settings.snowflake.sign_in("executor").user
    return {
        "account": account_of(settings, section),
        "sign_in": sign_in_of(settings, "worker", section),
        "executor_user": None if executor_user is None else executor_user.upper(),
        "canary": _canary(settings, section),
    }


def need_connector() -> None:
    """Refused where Snowflake's connector is not installed."""
    try:
        import snowflake.connector  # noqa: F401
    except ModuleNotFoundError as error:
        extras = "server,worker,snowflake" if find_spec("sqlalchemy") else "worker,snowflake"  # beside what is there
        message = f"{error.name} is not installed: planes on platform_snowflake need countermand[{extras}]"
        raise Refused(message) from error


def _canary(settings: "Settings", section: str) -> "SignIn | None":
    """The executor's sign-in, where this process has it: on a machine of its own a worker needs none."""
    from config.snowflake import WAYS

    own = settings.snowflake.sign_in("executor")
    if own.user is None or all(getattr(own, way) is None for way in WAYS):
        return None
    try:
        return sign_in_of(settings, "executor", section)
    except BadInput as error:  # a key that only the executor may read
        log.info("canary_left_out", detail=error.message)
        return None


def _needed(value: str | None, name: str, missing: str, section: str = COMMON, first: str = "") -> str:
    """The value. A plane's own account takes nothing from variables of others, so none of them is a remedy there."""
    if value is None:
        setting = f"{section}.{name}"
        common = f" of the settings file, {variable_of(setting)} or {CUSTOMARY[name][0]}" if section == COMMON else ""
        raise BadInput(f"{setting}: {missing}; set {name} in {first}[{section}]{common}", field=setting)
    return value


def _refuse_incomplete(own: "SignInSettings", section: str, user: str) -> None:
    from config.snowflake import WAYS

    has_password = own.private_key_password is not None or own.private_key_password_file is not None
    if has_password and own.private_key_file is None:
        message = f"{section}.private_key_password: there is no private_key_file that it would open"
        raise BadInput(message, field=f"{section}.private_key_password")
    if all(getattr(own, way) is None for way in WAYS):
        message = (
            f"{section}: there is no way for {user} to sign in; set private_key_file, token_file, token or "
            "workload_identity in the section that names the user"
        )
        raise BadInput(message, field=section)
    if own.workload_identity == "OIDC" and own.token is None and own.token_file is None:
        message = f"{section}.workload_identity: OIDC needs a token_file or a token beside it"
        raise BadInput(message, field=f"{section}.workload_identity")


def _refuse_calls_longer_than_a_lease(settings: "Settings") -> None:
    call, lease = settings.snowflake.call_timeout_seconds, settings.worker.lease_seconds
    if call >= lease:
        message = f"snowflake.call_timeout_seconds: {call:g} should be less than worker.lease_seconds, {lease:g}"
        raise BadInput(message, field="snowflake.call_timeout_seconds")


def _readable(file: Path | None, field: str) -> Path | None:
    """The file, once it was seen that it can be read and is not empty: the connector says so less clearly."""
    if file is None:
        return None
    read_secret(file, field)
    return at_home(file)
