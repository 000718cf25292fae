"""What Snowflake says of a query, and what may be concluded from it.

The connector's own ``is_still_running`` is no help: it says False of ABORTING, while the query burns on, and of
DISCONNECTED, which a closed client connection reports (measured with snowflake-connector-python 5.2.0).
"""

from datetime import datetime
from typing import NamedTuple

from adapters.base import RunStatus

ACTIVE = frozenset(
    {"RUNNING", "QUEUED", "BLOCKED", "RESUMING_WAREHOUSE", "QUEUED_REPARING_WAREHOUSE", "RESTARTED", "ABORTING"}
)
ABORTING = "ABORTING"  #: it was told to stop, and still runs
FAILED = frozenset({"FAILED_WITH_ERROR", "FAILED_WITH_INCIDENT"})
#: Errors of a query that was stopped: cancelled, or (unverified) past its statement time-out. They do not say by whom.
STOPPED_BY = frozenset({604, 630})


class Fate(NamedTuple):
    """A query's status, the error with which it ended, and when, by Snowflake's clock; None where that was not told."""

    status: str
    code: int | None = None
    message: str = ""
    ended_at: datetime | None = None

    @property
    def run_status(self) -> RunStatus:
        """In our words; what is not known for sure to have ended is not said to have ended."""
        if self.status in ACTIVE:
            return RunStatus.ACTIVE
        if self.status == "SUCCESS":
            return RunStatus.SUCCEEDED
        if self.status == "ABORTED" or (self.status in FAILED and self.code in STOPPED_BY):
            return RunStatus.STOPPED
        return RunStatus.ERRORED if self.status in FAILED else RunStatus.UNKNOWN

    @property
    def word(self) -> str:
        """The engine's own words, in one line."""
        said = self.message.splitlines()[0] if self.message else ""
        return " ".join(part for part in (self.status, f"{self.code:06d}" if self.code else "", said) if part)


def found_running(answer: object) -> bool:
    """Whether SYSTEM$CANCEL_QUERY says that it found the query running; for an ended one it answers a row as well."""
    return str(answer).rstrip(".").endswith("terminated")
