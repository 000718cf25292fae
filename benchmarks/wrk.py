"""wrk as the load: as fast as it is answered, for less than half of the processor time that our own client takes.

It holds no rate. What is measured at one is therefore loaded by our own client, ``processes/http_load.py``, everywhere.
"""

import shutil
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_suffix(".lua")
_LONGEST_SECONDS = 300  #: after which it gives up; its script ends it with the last answer


class Outcome(msgspec.Struct, frozen=True):
    """What the script tells once every request is answered."""

    answered: int
    refused: int  #: those answered with anything but 2xx
    seconds: float  #: from the first request to the last answer


def find() -> str | None:
    """Where wrk is, if it is on the PATH."""
    return shutil.which("wrk")


def command(wrk: str, port: int, token: Path, connections: int, lines: Path) -> list[str]:
    """What asks each of the requests in the file *lines* once, over so many connections."""
    return [
        wrk, "--threads=1", f"--connections={connections}", f"--duration={_LONGEST_SECONDS}s", f"--script={_SCRIPT}",
        f"http://127.0.0.1:{port}", "--", str(token), str(lines),
    ]  # fmt: skip


def read_rate(said: str) -> float:
    """Requests a second, from what wrk printed; RuntimeError unless every request was answered with 2xx."""
    try:
        outcome = msgspec.json.decode(said.strip().rpartition("\n")[2], type=Outcome)
    except msgspec.DecodeError as error:  # wrk's own summary, which tells the sockets' errors
        raise RuntimeError(f"wrk waited {_LONGEST_SECONDS} s for answers that did not come: {said}") from error
    if outcome.refused:
        raise RuntimeError(f"{outcome.refused} of {outcome.answered} requests were refused")
    return outcome.answered / outcome.seconds
