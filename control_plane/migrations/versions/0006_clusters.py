"""Narrative planes say which clusters of Spark they have."""

import sqlalchemy as sa
from alembic import op

from control_plane.schema import Document

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the planes that there are go on with the embedded engine."""
    op.add_column("data_planes", sa.Column("execution_clusters", Document(), server_default="[]", nullable=False))
