"""Pages of jobs are chosen and counted by an index alone."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LISTED = ["created_at", "job_id", "updated_at", "state", "type"]
_NAMED = sa.text("substr(CAST(input ->> 'dataset_id' AS TEXT), 1, 20)")
_IS_NAMED = sa.text("substr(CAST(input ->> 'dataset_id' AS TEXT), 1, 20) IS NOT NULL")


def upgrade() -> None:
    """Widen the listing's indexes, and add one for the dataset that an input names."""
    op.drop_index("jobs_by_plane", "jobs")
    op.drop_index("jobs_by_company", "jobs")
    op.create_index("jobs_by_plane", "jobs", ["data_plane_id", *_LISTED, "company_id"], unique=False)
    op.create_index("jobs_by_company", "jobs", ["company_id", *_LISTED], unique=False)
    op.create_index(
        "jobs_by_dataset",
        "jobs",
        ["company_id", _NAMED, "created_at"],
        unique=False,
        postgresql_where=_IS_NAMED,
        sqlite_where=_IS_NAMED,
    )
