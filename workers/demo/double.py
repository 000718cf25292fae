"""The double of a Snowflake account, as one more process of the demo: signed in to, and told to lie."""

import secrets
from collections.abc import Mapping
from typing import Any

import httpx

from control_plane.errors import EngineUnavailable
from workers.demo.actors import Actor

#: Who signs in for whom; the worker may stop what the executor runs, and is somebody else.
USERS = {"worker": "CANCELLER", "executor": "EXECUTOR"}
PLACE = {"PROTOCOL": "http", "DATABASE": "ANALYTICS", "WAREHOUSE": "COMPUTE_WH"}
#: This machine is not asked by way of a proxy.
DIRECTLY = {"NO_PROXY": "*", "no_proxy": "*"}
ANSWER_WITHIN_SECONDS = 15.0


class Double:
    """A hand on the account of *actor*."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self._url = ""

    def open(self, address: Mapping[str, Any]) -> Mapping[str, str]:
        """Make tokens for those who sign in, once it listens; answers its settings, as variables."""
        self._url = address["url"]
        told = PLACE | {name.upper(): str(address[name]) for name in ("account", "host", "port")}
        for side, user in USERS.items():
            token = secrets.token_hex(16)
            self._post("oauth-tokens", {"user": user, "token": token})
            signing_in = {"USER": user, "TOKEN": token, "TOKEN_KIND": "oauth"}
            told |= {f"{side.upper()}__{name}": value for name, value in signing_in.items()}
        return DIRECTLY | {f"COUNTERMAND_SNOWFLAKE__{name}": value for name, value in told.items()}

    def lie(self) -> None:
        """From now on SYSTEM$CANCEL_QUERY says of a query that it is terminated, and it runs on."""
        self._post("faults", {"lying": ["SYSTEM$CANCEL_QUERY"]})

    def _post(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            with httpx.Client(trust_env=False, timeout=ANSWER_WITHIN_SECONDS) as client:
                client.post(f"{self._url}/_double/{path}", json=body).raise_for_status()
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"the double of a Snowflake account does not do as it is told: {error}") from error
