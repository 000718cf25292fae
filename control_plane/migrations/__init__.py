"""Alembic migrations, run from inside the package: no ini file is needed."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from control_plane.errors import NotMigrated
from control_plane.store import Store, first_look, not_migrated


def _config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the database to *revision*; does nothing where it is there already."""
    command.upgrade(_config(database_url), revision)


def newest() -> str:
    """The revision that this version of Countermand needs."""
    return ScriptDirectory.from_config(_config("")).get_current_head() or ""


def check_migrated(store: Store) -> None:
    """Raise NotMigrated, naming the remedy, unless the database is at the newest revision."""
    url = store.engine.url
    with first_look(url), store.engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != newest():
        raise NotMigrated(not_migrated(url) + f" (it is at {found or 'no revision'}, {newest()} is needed)")
