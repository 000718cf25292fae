"""Sessions: who is signed in, with which role and parameters, and for how long the tokens are good."""

import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from enum import StrEnum

from tests.doubles.snowflake.errors import RejectedError

DATABASE = "ANALYTICS"  #: where every session begins unless it says where
SCHEMA = "PUBLIC"
TOKEN_SECONDS = 3600
MASTER_TOKEN_SECONDS = 4 * 3600


class Loss(StrEnum):
    """How a session stops being good."""

    TOKEN_EXPIRED = "token_expired"  #: 390112; the master token renews it
    MASTER_TOKEN_EXPIRED = "master_token_expired"  #: 390112, and 390114 for whoever tries to renew
    GONE = "gone"  #: 390111
    UNKNOWN = "unknown"  #: 390104


class Session:
    """One login."""

    def __init__(self, session_id: int, user: str, role: str, parameters: Mapping[str, str]) -> None:
        self.session_id = session_id
        self.user = user
        self.role = role
        self.account = ""
        self.warehouse: str | None = None
        self.database = DATABASE
        self.schema = SCHEMA
        self.parameters = dict(parameters)
        self.in_transaction = False
        self.token = ""
        self.master_token = secrets.token_hex(32)
        self.token_until = 0.0
        self.master_until = 0.0
        self.renew()

    def renew(self) -> None:
        """A new token; the old one is no longer known."""
        self.token = secrets.token_hex(32)
        self.token_until = time.monotonic() + TOKEN_SECONDS
        self.master_until = time.monotonic() + MASTER_TOKEN_SECONDS


class SessionBook:
    """Every session that has not ended."""

    def __init__(self, forget: Callable[[Session], None]) -> None:
        self._forget = forget
        self._by_id: dict[int, Session] = {}
        self._numbers = itertools.count(1_000_000_000_001)  # larger than 32 bits, as Snowflake's are
        self._gone: set[str] = set()  #: tokens of sessions that were

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, user: str, role: str, parameters: Mapping[str, str]) -> Session:
        """A new session."""
        session = Session(next(self._numbers), user, role, parameters)
        self._by_id[session.session_id] = session
        return session

    def find(self, session_id: int) -> Session | None:
        """The session of this number, unless it ended."""
        return self._by_id.get(session_id)

    def signed_in(self, token: str) -> Session:
        """Whose token this is. Raises RejectedError: 390112 expired, 390111 the session is gone, 390104 unknown."""
        session = self._having(lambda known: known.token, token)
        if time.monotonic() >= session.token_until:
            raise RejectedError("390112", "Your session has expired. Please login again.", "08001")
        return session

    def renewed(self, master_token: str) -> Session:
        """The session of this master token, with a new token. Raises RejectedError: 390114 expired, 390111, 390104."""
        session = self._having(lambda known: known.master_token, master_token)
        if time.monotonic() >= session.master_until:
            raise RejectedError("390114", "Authentication token has expired.  The user must authenticate again.")
        session.renew()
        return session

    def end(self, session: Session) -> None:
        """Whoever comes with one of its tokens is told that it is gone; *forget* is told of it."""
        self._gone |= {session.token, session.master_token}
        self._by_id.pop(session.session_id, None)
        self._forget(session)

    def lose(self, user: str, loss: Loss) -> int:
        """Spoil every session of the user; answers how many. What runs in them runs on."""
        spoiled = [session for session in self._by_id.values() if session.user == user]
        for session in spoiled:
            self._spoil(session, loss)
        return len(spoiled)

    def _spoil(self, session: Session, loss: Loss) -> None:
        session.token_until = 0.0
        if loss is Loss.MASTER_TOKEN_EXPIRED:
            session.master_until = 0.0
        if loss in (Loss.GONE, Loss.UNKNOWN):
            del self._by_id[session.session_id]
        if loss is Loss.GONE:
            self._gone |= {session.token, session.master_token}

    def _having(self, which: Callable[[Session], str], token: str) -> Session:
        for session in list(self._by_id.values()):
            if secrets.compare_digest(which(session), token):
                return session
        if token in self._gone:
            raise RejectedError("390111", "Session no longer exists.  New login required to access the service.")
        raise RejectedError("390104", "Session token not found or invalid data.")
