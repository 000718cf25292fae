"""Where everything is measured: one Postgres, durable, and databases on it that each measurement gets fresh."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psycopg

from control_plane.migrations import upgrade
from tests.postgres import DURABLE, Postgres


@dataclass(frozen=True)
class Ground:
    """The server, and a folder for what the measured processes write."""

    server: Postgres
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def lay(cls, folder: Path) -> Iterator[Self]:
        """A server of our own, for as long as it is needed."""
        with Postgres.start(DURABLE | {"min_wal_size": f"{2 * _SEGMENTS * 16}MB"}) as server:
            _make_segments(server)
            yield cls(server, folder)

    @contextmanager
    def lend(self, template: str) -> Iterator[str]:
        """A copy of the database *template*, written out by a checkpoint: nobody pays for what came before."""
        name = f"bench_{next(self.numbers)}"
        self.server.create_database(name, template=template)
        self.server.execute("CHECKPOINT")
        try:
            yield name
        finally:
            self.server.drop_database(name)

    @contextmanager
    def found(self, name: str, *, migrated: bool = True) -> Iterator[psycopg.Connection]:
        """Make a database to be filled through the connection; vacuumed, analysed and written out afterwards."""
        self.server.create_database(name)
        if migrated:
            upgrade(self.server.url(name))
        with self.connect(name) as connection:
            yield connection
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")

    @contextmanager
    def connect(self, name: str) -> Iterator[psycopg.Connection]:
        """A connection of our own, every statement a transaction."""
        with psycopg.connect(self.server.conninfo(name), autocommit=True) as connection:
            yield connection

    def file(self, name: str) -> Path:
        """A path for one process's output, given once."""
        return self.folder / f"{next(self.numbers)}-{name}"


_SEGMENTS = 64  #: of the log, 16 MB each; a measurement fills fewer, and the checkpoint before the next frees them


def _make_segments(server: Postgres) -> None:
    """Have the log's files ready, as a server has that was not just founded: it uses the old ones again.

    A new one is 16 MB of zeros, written and synced by whoever commits next: 40 ms, by wait events.
    """
    server.execute("CREATE TABLE written (number int)")
    for _ in range(_SEGMENTS):
        server.execute("INSERT INTO written VALUES (1)", "SELECT pg_switch_wal()")
    server.execute("DROP TABLE written", "CHECKPOINT")
