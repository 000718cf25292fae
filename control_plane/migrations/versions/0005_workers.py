"""Planes' processes say who they are; a repeated claim finds what it had leased."""

import sqlalchemy as sa
from alembic import op

from control_plane.schema import Document, Moment, Uuid

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LEASED = sa.text("settled_at IS NULL AND lease IS NOT NULL")


def upgrade() -> None:
    """Add the table of workers, and the index of leases that are held."""
    op.create_table(
        "workers",
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("engines", Document(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("first_seen_at", Moment(), nullable=False),
        sa.Column("last_seen_at", Moment(), nullable=False),
        sa.CheckConstraint("kind IN ('canceller', 'executor')", name=op.f("workers_known_kind")),
        sa.ForeignKeyConstraint(
            ["data_plane_id"], ["data_planes.data_plane_id"], name=op.f("workers_data_plane_id_fk")
        ),
        sa.PrimaryKeyConstraint("data_plane_id", "worker", name=op.f("workers_pk")),
    )
    op.create_index("cancellations_leased", "cancellations", ["lease"], postgresql_where=_LEASED, sqlite_where=_LEASED)
