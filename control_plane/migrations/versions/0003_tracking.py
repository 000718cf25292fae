"""Planes say whose work, started elsewhere, may be tracked on them."""

import sqlalchemy as sa
from alembic import op

from control_plane.schema import Document

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; until its owner says otherwise, a plane allows nobody's."""
    op.add_column("data_planes", sa.Column("tracking", Document(), server_default="{}", nullable=False))
