"""Jobs, cancellations, audit, planes and executors."""

import secrets

from alembic import op

from control_plane.schema import installation, metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything, and give the installation its name."""
    bind = op.get_bind()
    metadata.create_all(bind, checkfirst=False)
    bind.execute(installation.insert().values(name=secrets.token_hex(8)))
