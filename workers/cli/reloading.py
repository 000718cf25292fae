"""SIGHUP: the settings are read anew, and what may change while a process runs counts at once."""

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from config.reload import Reloaded
    from config.settings import Settings

log = structlog.get_logger()

#: Reads the settings that were given anew, as they were read before.
Rereading = Callable[["Settings"], "Reloaded"]


def survive_early_signals() -> None:
    """For a process that has yet to start: a SIGHUP has nothing to read anew for, and must not end it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def reloader(
    settings: "Settings", reread: "Rereading | None", apply: "Callable[[Settings], None]"
) -> Callable[[], None] | None:
    """What SIGHUP does: *apply* is given the settings that count from now on. Broken settings change nothing.

    None where nobody said how to read them anew.
    """
    from config.logging import change_level
    from config.settings import SettingsError

    if reread is None:
        return None
    counting = settings

    def reload() -> None:
        nonlocal counting
        try:
            read = reread(counting)
        except SettingsError as error:
            log.error("reload_refused", errors=list(error.sentences))
            return
        counting = read.settings
        change_level(counting.log_level)
        apply(counting)
        log.info("settings_reloaded", changed=list(read.changed), at_restart=list(read.at_restart))

    return reload
