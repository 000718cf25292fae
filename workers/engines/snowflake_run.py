"""One job's run in Snowflake."""

from typing import Any

from control_plane.work import Claim
from workers.engines.run import Run
from workers.engines.snowflake_session import JobSession

ENGINE = "snowflake"


class SnowflakeRun(Run):
    """In the session that the job has to itself, which is there from when it is signed in until the run has ended."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(claim, ENGINE)
        self.session: JobSession | None = None
        self.remark = ""  #: what went wrong with its submission

    def known(self, *, code: int | None = None, **more: Any) -> dict[str, Any]:
        """The same, with Snowflake's own code where there is one, of six digits as Snowflake writes it."""
        return super().known(code=f"{code:06d}" if code else None, **more)
