"""Companies' tokens, and with whom planes are shared; jobs are listed by company."""

import sqlalchemy as sa
from alembic import op

from control_plane.schema import Document, Moment, Uuid

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and let the listing's index begin with the company."""
    op.create_table(
        "collaborators",
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("company_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["data_plane_id"], ["data_planes.data_plane_id"], name=op.f("collaborators_data_plane_id_fk")
        ),
        sa.PrimaryKeyConstraint("data_plane_id", "company_id", name=op.f("collaborators_pk")),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("permissions", Document(), nullable=False),
        sa.Column("data_plane_id", Uuid(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=True),
        sa.Column("revoked_at", Moment(), nullable=True),
        sa.Column("last_used_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(["data_plane_id"], ["data_planes.data_plane_id"], name=op.f("tokens_data_plane_id_fk")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("tokens_pk")),
    )
    op.drop_index("jobs_by_creation", "jobs")
    op.create_index("jobs_by_company", "jobs", ["company_id", "created_at"], unique=False)
