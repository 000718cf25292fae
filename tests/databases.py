"""Databases for tests: each test gets one of its own, migrated once per run and copied from then on."""

import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.migrations import upgrade
from tests.postgres import Postgres
from tests.shared import SharedFolder


@dataclass(frozen=True)
class Databases:
    """The databases of one test run: its processes share one Postgres and the migrated templates."""

    shared: SharedFolder
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def lend_sqlite(self, *, migrated: bool = True) -> Iterator[str]:
        """A database in a file of its own, as a URL."""
        file = self.shared.path / f"{self.new_name()}.db"
        if migrated:
            shutil.copyfile(self.sqlite_template(), file)
        try:
            yield sqlite_url(file)
        finally:
            for leftover in file.parent.glob(f"{file.name}*"):
                leftover.unlink(missing_ok=True)

    @contextmanager
    def lend_postgres(self, *, migrated: bool = True) -> Iterator[str]:
        """A database on the run's Postgres, as a URL."""
        server, name = self.postgres(), self.new_name()
        server.create_database(name, template=self.postgres_template() if migrated else "template1")
        try:
            yield server.url(name)
        finally:
            server.drop_database(name)

    def new_name(self) -> str:
        """A name that no process of the run gives again."""
        return f"test_{os.getpid()}_{next(self.numbers)}"

    def postgres(self) -> Postgres:
        """The run's server, started by whoever asks first."""
        return Postgres(self.shared.once("postgres", lambda folder: Postgres.start(folder=folder)))

    def postgres_template(self) -> str:
        """The name of a migrated database."""
        return self.shared.once("migrated", lambda path: migrate_postgres(self.postgres(), path.name)).name

    def sqlite_template(self) -> Path:
        """A migrated file."""
        return self.shared.once("migrated.db", migrate_sqlite)

    def close(self) -> None:
        """Stop the server, if one was started; called once, after every process has ended."""
        if (folder := self.shared.path / "postgres").exists():
            Postgres(folder).stop()


def migrate_postgres(server: Postgres, name: str) -> None:
    server.create_database(name)
    upgrade(server.url(name))


def migrate_sqlite(file: Path) -> None:
    """Migrate a new file, and leave nothing in a journal beside it: the file alone is copied."""
    upgrade(sqlite_url(file))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def sqlite_url(file: Path) -> str:
    return f"sqlite:///{file}"
