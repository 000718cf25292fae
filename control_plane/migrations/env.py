"""What Alembic runs: one transaction over all revisions, and the triggers of this version."""

from alembic import context

from control_plane.refusals import install
from control_plane.schema import metadata
from control_plane.store import open_engine, translated


def run() -> None:
    """Migrate the database that :func:`control_plane.migrations.upgrade` names."""
    engine = open_engine(context.config.attributes["database_url"])
    try:
        with translated(engine.url.render_as_string(hide_password=True)), engine.begin() as connection:
            context.configure(connection=connection, target_metadata=metadata)
            with context.begin_transaction():
                context.run_migrations()
            install(connection)
    finally:
        engine.dispose()


run()
