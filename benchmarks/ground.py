"""Where everything is measured: one Postgres, durable, and databases on it that each measurement gets fresh."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psycopg

from benchmarks import population
from control_plane.migrations import upgrade
from tests.postgres import DURABLE, Postgres


@dataclass(frozen=True)
class Ground:
    """The server, and a folder for what processes write."""

    server: Postgres
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def lay(cls, folder: Path) -> Iterator[Self]:
        """A server of our own, for as long as it is needed."""
        with Postgres.start(DURABLE) as server:
            yield cls(server, folder)

    @contextmanager
    def lend(self, template: str = "template1") -> Iterator[str]:
        """A copy of the database *template*, its pages written out: nobody pays for what came before."""
        name = f"bench_{next(self.numbers)}"
        self.server.create_database(name, template=template)
        self.server.execute("CHECKPOINT")
        try:
            yield name
        finally:
            self.server.drop_database(name)

    def make_storm(self, name: str, requested: int) -> None:
        """A database in which *requested* jobs wait for their cancellation; a template for :meth:`lend`."""
        self.server.create_database(name)
        upgrade(self.server.url(name))
        with psycopg.connect(self.server.conninfo(name), autocommit=True) as connection:
            population.add_plane(connection)
            population.add_requested(connection, requested)
            connection.execute("VACUUM (ANALYZE)")
