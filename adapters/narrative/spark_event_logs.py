"""What the event log of an application tells: of itself, its driver and its executors (Spark 4.3.0)."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from adapters.narrative.spark_standalone_fates import DRIVER_ID

UNDER_WAY = ".inprogress"  #: what the name of an event log ends with until its application has ended
#: Where a worker shows what an executor writes: below its web UI.
LOG_URL = re.compile(r"(https?://[^/?#@\s]+)/logPage/")
HEAD_BYTES = 4 * 2**20  #: of an event log; the environment is among the first events


def has_ended(log: Path) -> bool:
    """Whether the application has: its log has another name from then on."""
    return not log.name.endswith(UNDER_WAY)


def driver_of(log: Path) -> str | None:
    """The driver that writes this event log: its folder is the one that the worker has made for it."""
    for line in _head(log):
        if b"SparkListenerEnvironmentUpdate" in line:
            try:
                told = json.loads(line)["System Properties"]["user.dir"]
            except (ValueError, KeyError, TypeError):  # not yet whole
                return None
            name = Path(str(told)).name
            return name if DRIVER_ID.fullmatch(name) else None  # Spark may have redacted it
    return None


def workers_of(log: Path) -> set[str]:
    """The workers' web UIs, by the executors that were added to the application and not removed again."""
    places: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError), log.open("rb") as lines:
        for line in lines:
            if b'"SparkListenerExecutorAdded"' in line and (told := _told(line)):
                urls = (told.get("Executor Info") or {}).get("Log Urls") or {}
                found = LOG_URL.match(str(urls.get("stdout")))
                if found:
                    places[str(told.get("Executor ID"))] = found[1]
            if b'"SparkListenerExecutorRemoved"' in line and (told := _told(line)):
                places.pop(str(told.get("Executor ID")), None)
    return set(places.values())


def _told(line: bytes) -> dict[str, Any]:
    """An event; nothing where it is not whole."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _head(log: Path) -> list[bytes]:
    """Its first lines. A log that has come to its end gets another name."""
    ended = log.with_name(log.name.removesuffix(UNDER_WAY))
    for path in (log, ended):
        try:
            with path.open("rb") as lines:
                return lines.read(HEAD_BYTES).splitlines()
        except FileNotFoundError:
            continue
    return []
