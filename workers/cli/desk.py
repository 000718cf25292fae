"""What a command works with: the settings, and what is opened from them."""

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import SecretStr

    from config.reload import Reloaded
    from config.settings import Settings
    from control_plane.client import Client
    from control_plane.intake import Intake
    from control_plane.notify import Listener
    from control_plane.store import Store
    from control_plane.tokens import Tokens

HOW_TO_GET_ONE = (  # a token
    "give COUNTERMAND_TOKEN, or a profile with a token_file; the control plane's operator makes one "
    "by `countermand tokens create NAME --permission jobs:read --permission jobs:write --permission data_planes:read`"
)


@dataclass
class Desk:
    """The settings, and what is opened from them."""

    config: Path | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def settings(self, **given: Any) -> "Settings":
        """The settings, with what the command line gave; logging is set up by them."""
        from config.logging import configure_logging
        from config.settings import load_settings

        self.given = {**self.given, **given}
        settings = load_settings(self.config, **self.given)
        configure_logging(settings.log_level, settings.log_format)
        return settings

    def reread(self, settings: "Settings") -> "Reloaded":
        """The settings that were given, read anew as they were read before."""
        from config.reload import reload_settings

        return reload_settings(settings, **self.given)

    def database_url(self, database_url: str | None) -> str:
        """The database that was given, by option, environment or file."""
        return self.settings(database_url=database_url).database_url

    def client(self) -> "Client":
        """The control plane as users see it, with the token that was set."""
        from control_plane.client import Client, is_loopback
        from control_plane.errors import Unauthenticated
        from control_plane.printing import tell
        from workers.cli.reaching import tls_of

        settings = self.settings()
        token = settings.token.get_secret_value() if settings.token else read_token(settings.token_file)
        if not token:
            raise Unauthenticated(f"no token was set: {HOW_TO_GET_ONE}")
        if settings.url.startswith("http://") and not is_loopback(settings.url):
            tell(f"the token travels unencrypted to {settings.url}: use https where others could listen")
        return Client(settings.url, token, tls=tls_of(settings.tls), tell=tell)

    def intake(self, database_url: str | None) -> "Intake":
        """Users' side of the store."""
        return open_intake(self.settings(database_url=database_url))

    def tokens(self, database_url: str | None) -> "Tokens":
        """The API's tokens."""
        from control_plane.tokens import Tokens

        return Tokens(open_store(self.settings(database_url=database_url)))


def open_intake(settings: "Settings") -> "Intake":
    """Users' side of a store that is opened for it."""
    return intake_of(open_store(settings), settings)


def intake_of(store: "Store", settings: "Settings") -> "Intake":
    from control_plane.intake import Intake
    from control_plane.policy import Policy

    return Intake(store, Policy(settings.policy.overrides))


def open_store(settings: "Settings", *, pool_size: int = 5, lock_seconds: float | None = None) -> "Store":
    """The store, after a look whether it is there and migrated."""
    from control_plane.migrations import check_migrated
    from control_plane.store import Store

    store = Store(settings.database_url, pool_size=pool_size, lock_seconds=lock_seconds)
    try:
        check_migrated(store)
    except BaseException:
        store.close()
        raise
    return store


def listener_of(database_url: str) -> "Callable[[], Listener] | None":
    """Wake-ups, where the database sends any."""
    from control_plane.notify import Listener, can_listen

    return (lambda: Listener(database_url)) if can_listen(database_url) else None


def read_token(file: Path | None, field: str = "token_file") -> str | None:
    """The token in the file, where there is one. Raises BadInput, which names the *field*."""
    return None if file is None else read_secret(file, field).get_secret_value()


def read_secret(file: Path, field: str) -> "SecretStr":
    """What stands in the file. BadInput names the field, and why it cannot be had."""
    from pydantic import SecretStr

    from control_plane.errors import BadInput

    try:
        text = at_home(file).read_text().strip()
    except OSError as error:
        raise BadInput(f"{field}: {file} cannot be read: {error.strerror}", field=field) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{field}: {file} is not text", field=field) from error
    if not text:
        raise BadInput(f"{field}: {file} is empty; a {_what(field)} is needed", field=field)
    return SecretStr(text)


def at_home(file: Path) -> Path:
    """The file, ``~`` being the user's home."""
    with suppress(RuntimeError):  # nobody's home is known
        return file.expanduser()
    return file


def _what(field: str) -> str:
    """What a field's file is to hold, in words."""
    return field.rpartition(".")[2].removesuffix("_file").replace("_", " ")


HEARTBEAT_SECONDS = 10.0


def tune_interpreter() -> None:
    """For a process that works many small batches; each measured in a storm of 20,000 cancellations.

    Threads that come back from the store wait 1 ms for the interpreter, not 5 (a tenth of the rate); a batch's objects
    form no cycles, so they are looked through for some 30 times less often (a tenth to a fifth of the CPU).
    """
    sys.setswitchinterval(0.001)
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
