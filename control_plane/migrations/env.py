"""What Alembic runs: one transaction over all revisions, and the triggers of this version."""

from alembic import context
from sqlalchemy import Connection, inspect

from control_plane.errors import Conflict
from control_plane.refusals import install
from control_plane.schema import metadata
from control_plane.store import first_look, open_engine

OWN_DATABASE = "give Countermand a database of its own"


def run() -> None:
    """Migrate the database that :func:`control_plane.migrations.upgrade` names."""
    engine = open_engine(context.config.attributes["database_url"])
    try:
        with first_look(engine.url), engine.begin() as connection:
            context.configure(connection=connection, target_metadata=metadata)
            refuse_foreign(connection)
            with context.begin_transaction():
                context.run_migrations()
            install(connection)
    finally:
        engine.dispose()


def refuse_foreign(connection: Connection) -> None:
    """Raise Conflict, naming it, for somebody else's table under one of our names, or somebody else's revision."""
    revision = context.get_context().get_current_revision()
    known = {script.revision for script in context.script.walk_revisions()}
    if revision is not None and revision not in known:
        raise Conflict(f"the database is at revision {revision}, which this version does not know; {OWN_DATABASE}")
    if revision is None:
        for table in sorted(metadata.tables.keys() & inspect(connection).get_table_names()):
            raise Conflict(f"the database already has a table {table} that is not ours; {OWN_DATABASE}")


run()
