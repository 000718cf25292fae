"""Who may stop whose queries, and who is shown them."""

from tests.doubles.snowflake.account import Account
from tests.doubles.snowflake.faults import Faults
from tests.doubles.snowflake.queries import Query
from tests.doubles.snowflake.sessions import Session

TASK_PARAMETER = "TASK_NAME"  #: the double's own: a query whose session has it counts as run by that task


def may_stop(account: Account, faults: Faults, session: Session, query: Query) -> bool:
    """The same user; OWNERSHIP on the user; OPERATE or OWNERSHIP on the task, or else on the warehouse.

    ACCOUNTADMIN may as far as its roles may: a warehouse that somebody else owns is beyond it.
    """
    if query.user == session.user:
        return True
    if session.user in faults.denied:
        return False
    if account.may(session.role, ("OWNERSHIP",), "USER", query.user):
        return True
    task = query.parameters.get(TASK_PARAMETER)
    kind, name = ("TASK", task) if task else ("WAREHOUSE", query.warehouse)
    return account.may(session.role, ("OPERATE", "OWNERSHIP"), kind, name)


def may_end_session(account: Account, faults: Faults, session: Session, user: str) -> bool:
    """The same user, or OWNERSHIP on the user (unverified: the documentation does not say)."""
    if user == session.user:
        return True
    return session.user not in faults.denied and account.may(session.role, ("OWNERSHIP",), "USER", user)


def may_see(account: Account, faults: Faults, session: Session, user: str, warehouse: str | None) -> bool:
    """Queries of the same user, or with MONITOR, OPERATE or OWNERSHIP on the warehouse that they ran on.

    Others' are left out in silence.
    """
    if user == session.user:
        return True
    if session.user in faults.blind:
        return False
    return account.may(session.role, ("MONITOR", "OPERATE", "OWNERSHIP"), "WAREHOUSE", warehouse)
