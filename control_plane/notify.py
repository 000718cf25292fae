"""Wake-ups: Postgres tells listeners that a plane has news. Only for speed; the poll is the truth."""

from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import psycopg
from sqlalchemy import make_url

from control_plane.errors import StoreUnavailable
from control_plane.statements import CHANNEL
from control_plane.work import News


class Listener:
    """A connection that listens. Its :meth:`fileno` becomes readable when there is news.

    Raises StoreUnavailable from every call when the connection is lost; open another then.
    """

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url).set(drivername="postgresql")
        try:
            self._connection = psycopg.connect(
                url.render_as_string(hide_password=False), autocommit=True, connect_timeout=5
            )
            self._connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            raise StoreUnavailable(f"no wake-ups: {str(error).strip()}") from error

    def fileno(self) -> int:
        """The socket to wait on."""
        try:
            return self._connection.fileno()
        except psycopg.Error as error:
            raise StoreUnavailable(f"no wake-ups: {str(error).strip()}") from error

    def news(self) -> Iterator[tuple[UUID, News]]:
        """The planes that were told of since the last call, and of what each has news; does not wait."""
        try:
            for notification in self._connection.notifies(timeout=0):
                plane, _, news = notification.payload.partition(" ")
                with suppress(ValueError):  # others may use the channel
                    yield UUID(plane), News(news)
        except psycopg.Error as error:
            self.close()
            raise StoreUnavailable(f"no wake-ups: {str(error).strip()}") from error

    def close(self) -> None:
        """Stop listening."""
        self._connection.close()


def can_listen(database_url: str) -> bool:
    """Whether this database sends wake-ups: Postgres does, SQLite has none."""
    return make_url(database_url).get_backend_name() == "postgresql"
