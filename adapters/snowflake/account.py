"""Where a Snowflake account answers, and as whom one signs in there. Secrets are never part of a ``repr``."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

#: What the connector would wait for without being told differs from 60 seconds to for ever.
SIGN_IN_SECONDS = 15


class TokenKind(StrEnum):
    """What kind of token signs in, by the name that the connector has for it."""

    PROGRAMMATIC = "PROGRAMMATIC_ACCESS_TOKEN"
    OAUTH = "OAUTH"


@dataclass(frozen=True, kw_only=True)
class SignIn:
    """As whom, and how: a key pair, a token, or the workload's own identity."""

    user: str
    role: str | None = None  #: None: the user's default role
    private_key_file: Path | None = None
    private_key_password: SecretStr | None = None
    token: SecretStr | None = None
    token_file: Path | None = None  #: read anew at each sign-in
    token_kind: TokenKind = TokenKind.PROGRAMMATIC
    workload_identity: str | None = None  #: AWS, AZURE, GCP or OIDC; the last with a token

    def options(self) -> dict[str, Any]:
        """As the connector takes it."""
        if self.private_key_file is not None:
            how = {
                "authenticator": "SNOWFLAKE_JWT",
                "private_key_file": str(self.private_key_file),
                "private_key_password": _revealed(self.private_key_password),
            }
        else:
            how = {
                "authenticator": "WORKLOAD_IDENTITY" if self.workload_identity else self.token_kind.value,
                "workload_identity_provider": self.workload_identity,
                "token": _revealed(self.token),
                "token_file_path": None if self.token_file is None else str(self.token_file),
            }
        return {"user": self.user, "role": self.role, **how}


@dataclass(frozen=True, kw_only=True)
class Account:
    """One account; *database* is where outputs lie, and whose INFORMATION_SCHEMA tells of queries."""

    account: str
    database: str
    host: str | None = None  #: None: as the account's name says
    port: int | None = None
    protocol: str = "https"
    warehouse: str | None = None  #: where jobs run; cancelling uses none

    def options(
        self, sign_in: SignIn, *, timeout_seconds: float, with_warehouse: bool = False, **parameters: str
    ) -> dict[str, Any]:
        """As the connector takes it, every time-out set; *parameters* are the session's, and last as long as it.

        *with_warehouse*: for a session that computes; cancelling is to start none.
        """
        seconds = max(1, round(timeout_seconds))
        told = {
            "account": self.account,
            "host": self.host,
            "port": self.port,
            "protocol": self.protocol,
            "database": self.database,
            "warehouse": self.warehouse if with_warehouse else None,
            "session_parameters": parameters,
            "application": "Countermand",
            "client_store_temporary_credential": False,
            "login_timeout": SIGN_IN_SECONDS,
            "connect_timeout": seconds,
            "request_timeout": seconds,
            "query_timeout": seconds,
            "retry_timeout": seconds,
            "logout_total_timeout_seconds": seconds,
            "enable_server_session_keep_alive_auto_detection": False,  # unset, the connector warns
            **sign_in.options(),
        }
        return {name: value for name, value in told.items() if value is not None}


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
