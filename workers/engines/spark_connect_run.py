"""One job's run on a Connect server."""

from itertools import chain, repeat

from adapters.narrative.spark_connect_names import ENGINE, Identity, Operation, operation_of, session_of
from control_plane.jobs import Rung
from control_plane.work import Claim
from workers.engines.run import Run

RUNGS = (Rung.ASK, Rung.INSIST, Rung.FORCE)


class ConnectRun(Run):
    """In the session that the job has to itself, as its one operation; both are named after the job's tag."""

    def __init__(self, claim: Claim, here: Identity) -> None:
        super().__init__(claim, ENGINE)
        self.here = here  #: the start of the server that it is submitted to
        self.session = session_of(here.user, claim.tag)
        self.operation_id = operation_of(claim.tag)
        self.remark = ""  #: what went wrong with its submission
        self.rungs = chain(RUNGS, repeat(RUNGS[-1]))  #: to be stopped by, again and again: the last one for good

    @property
    def operation(self) -> Operation:
        """Its one operation."""
        return Operation(self.session, self.operation_id)
