"""How the real commands are told of a Snowflake account."""

import secrets

from tests.snowflake import SnowflakeDouble

WAREHOUSE = "COMPUTE_WH"


def settings_of(double: SnowflakeDouble, *, database: str = "ANALYTICS") -> dict[str, str]:
    """A worker that is CANCELLER, and an executor that is EXECUTOR."""
    account = double.account(database=database, warehouse=WAREHOUSE)
    return variables(
        account=account.account,
        host=account.host,
        port=account.port,
        protocol=account.protocol,
        database=account.database,
        warehouse=account.warehouse,
        token_kind="oauth",
        worker_user="CANCELLER",
        worker_token=issued(double, "CANCELLER"),
        worker_token_kind="oauth",
        executor_user="EXECUTOR",
        executor_token=issued(double, "EXECUTOR"),
        executor_token_kind="oauth",
    )


def variables(**settings: object) -> dict[str, str]:
    """As variables; ``worker_token`` is the worker's token."""
    names = {name: name.upper() for name in settings}
    for side in ("worker", "executor"):
        names |= {name: f"{side}__{name.removeprefix(f'{side}_')}".upper() for name in names if name.startswith(side)}
    return {f"COUNTERMAND_SNOWFLAKE__{names[name]}": str(value) for name, value in settings.items()}


def issued(double: SnowflakeDouble, user: str) -> str:
    """A token by which the user signs in."""
    token = secrets.token_hex(16)
    double.issue_oauth_token(user, token)
    return token
