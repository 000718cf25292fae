"""How a Spark Connect server is found, and what everything of a job is called there: derived from its tag alone.

Whoever knows the tag can so speak for the job, also when the process that submitted it died before it told anybody.
"""

from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from msgspec import Struct

from control_plane.errors import BadInput

ENGINE = "spark-connect"
NAMES = UUID("d6f0d1c4-3f0c-5a39-9d5c-5f0f5f6f5b0e")  #: never to be changed: what runs would not be found any more
PORT = 15002


class Server(Struct, frozen=True):
    """Where a server listens, and how it is spoken to."""

    address: str  #: host:port
    tls: bool = False
    token: str | None = None
    authorities: bytes | None = None  #: certificates, PEM; the system's where there are none

    @classmethod
    def at(cls, url: str, *, token: str | None = None, authorities: bytes | None = None) -> "Server":
        """The server of Spark's own URL, ``sc://host:port/;use_ssl=true``. Raises BadInput, naming the field."""
        parts = urlsplit(url)
        options = dict(pair.partition("=")[::2] for pair in parts.path.strip("/").split(";") if pair)
        if parts.scheme != "sc" or not parts.hostname or options.keys() - {"use_ssl"}:
            message = f"connect_url: {url!r} is not sc://host:port, or sc://host:port/;use_ssl=true"
            raise BadInput(message, field="connect_url")
        tls = options.get("use_ssl") == "true" or token is not None or authorities is not None
        return cls(f"{parts.hostname}:{parts.port or PORT}", tls, token, authorities)


class Session(NamedTuple):
    """A session, as the server knows it."""

    user: str
    session_id: str


class Identity(NamedTuple):
    """Which start of the server answers (``spark.app.id``), and whom it is asked as: others' sessions are not seen."""

    application: str
    user: str

    @property
    def incarnation(self) -> str:
        """As handles name it: whoever asks as another user cannot vouch for it either."""
        return f"{self.application}/{self.user}"


class Operation(NamedTuple):
    """An operation of somebody's session."""

    session: Session
    operation_id: str

    @property
    def name(self) -> str:
        """As the handle of work that was started elsewhere names it."""
        return f"{self.session.user}/{self.session.session_id}/{self.operation_id}"

    @classmethod
    def named(cls, name: str) -> "Operation | None":
        """The operation of such a name; None where it is no such name."""
        user, *ids = name.rsplit("/", 2)
        if not user or len(ids) != 2 or not all(map(is_uuid, ids)):
            return None
        return cls(Session(user, ids[0]), ids[1])


def is_uuid(text: str) -> bool:
    """Whether Spark would take this for a session's or an operation's id, as it is written."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def session_of(user: str, tag: str) -> Session:
    """The session that the job of this tag has to itself."""
    return Session(user, str(uuid5(NAMES, tag)))


def operation_of(tag: str) -> str:
    """The id of the job's one operation."""
    return str(uuid5(NAMES, f"{tag}:run"))
