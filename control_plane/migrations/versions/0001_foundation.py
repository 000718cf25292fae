"""Jobs, cancellations, audit, planes and executors."""

import secrets

import sqlalchemy as sa
from alembic import op

from control_plane.schema import Document, Moment, Uuid

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and give the installation its name."""
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", Uuid(), nullable=False),
        sa.Column("move", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("actor", Document(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("moved_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("audit_pk")),
    )
    op.create_index("audit_by_job", "audit", ["job_id", "audit_id"], unique=False)
    op.create_table(
        "data_planes",
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("company_id", sa.Integer(), server_default="1", nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", Document(), nullable=False),
        sa.Column("permit_seconds", sa.Float(), nullable=False),
        sa.Column("listing_lag_seconds", sa.Float(), nullable=False),
        sa.Column("stuck_after_seconds", sa.Float(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("last_heartbeat_at", Moment(), nullable=True),
        sa.CheckConstraint(
            "platform IN ('platform_aws', 'platform_snowflake')", name=op.f("data_planes_known_platform")
        ),
        sa.CheckConstraint("status IN ('active', 'archived')", name=op.f("data_planes_known_status")),
        sa.PrimaryKeyConstraint("data_plane_id", name=op.f("data_planes_pk")),
        sa.UniqueConstraint("company_id", "display_name", name=op.f("data_planes_company_id_display_name_unique")),
    )
    op.create_table(
        "installation",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("installation_pk")),
    )
    op.create_table(
        "datasets",
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("dataset_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_plane_id"], ["data_planes.data_plane_id"], name=op.f("datasets_data_plane_id_fk")
        ),
        sa.PrimaryKeyConstraint("data_plane_id", "dataset_id", name=op.f("datasets_pk")),
    )
    op.create_table(
        "executors",
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("token", Uuid(), nullable=True),
        sa.Column("registered_at", Moment(), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_plane_id"], ["data_planes.data_plane_id"], name=op.f("executors_data_plane_id_fk")
        ),
        sa.PrimaryKeyConstraint("executor_id", name=op.f("executors_pk")),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", Uuid(), nullable=False),
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("company_id", sa.Integer(), server_default="1", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("moved_from", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("request_source", Document(), nullable=False),
        sa.Column("input", Document(), nullable=False),
        sa.Column("execution_cluster", sa.Text(), nullable=True),
        sa.Column("compute_pool_id", Uuid(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("retry_of", Uuid(), nullable=True),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("executor", sa.Text(), nullable=True),
        sa.Column("executor_incarnation", sa.Integer(), nullable=True),
        sa.Column("engine_incarnation", sa.Text(), nullable=True),
        sa.Column("epoch", Uuid(), nullable=True),
        sa.Column("attended_at", Moment(), nullable=True),
        sa.Column("executor_closed_at", Moment(), nullable=True),
        sa.Column("handle", Document(), nullable=True),
        sa.Column("committed_at", Moment(), nullable=True),
        sa.Column("dataset_id", sa.BigInteger(), nullable=True),
        sa.Column("publication_number", sa.BigInteger(), nullable=True),
        sa.Column("result", Document(), nullable=True),
        sa.Column("failures", Document(), nullable=True),
        sa.Column("receipt", Document(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'completed', 'failed')) = (ended_at IS NOT NULL)",
            name=op.f("jobs_ended_when_terminal"),
        ),
        sa.CheckConstraint(
            "(state NOT IN ('cancelled')) AND receipt IS NULL OR state IN ('cancelled') AND receipt IS NOT NULL AND (receipt ->> 'outcome') IS NOT NULL AND (receipt ->> 'outcome') IN ('attested', 'finished_unpublished', 'never_started', 'stopped') AND (receipt ->> 'seen_at') IS NOT NULL AND (receipt ->> 'worker') IS NOT NULL",
            name=op.f("jobs_receipt_when_cancelled"),
        ),
        sa.CheckConstraint(
            "(state NOT IN ('cancelled', 'failed', 'pending')) OR committed_at IS NULL",
            name=op.f("jobs_uncommitted_when_given_up"),
        ),
        sa.CheckConstraint(
            "(state NOT IN ('completed')) OR committed_at IS NOT NULL", name=op.f("jobs_committed_when_completed")
        ),
        sa.CheckConstraint(
            "state IN ('cancelled', 'completed', 'failed', 'pending', 'pending_cancellation', 'running')",
            name=op.f("jobs_known_state"),
        ),
        sa.CheckConstraint(
            "type IN ('costs', 'datasets_calculate_column_stats', 'datasets_delete_table', 'datasets_deliver_data', 'datasets_sample', 'datasets_suggest_mappings', 'delete-snowflake-table', 'external', 'forecast', 'materialize-view', 'model_training_run', 'models_deliver_model', 'nql-forecast', 'upload-stats')",
            name=op.f("jobs_known_type"),
        ),
        sa.CheckConstraint(
            "(committed_at IS NOT NULL) = (result IS NOT NULL)", name=op.f("jobs_result_when_committed")
        ),
        sa.ForeignKeyConstraint(["data_plane_id"], ["data_planes.data_plane_id"], name=op.f("jobs_data_plane_id_fk")),
        sa.ForeignKeyConstraint(["retry_of"], ["jobs.job_id"], name=op.f("jobs_retry_of_fk")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("jobs_pk")),
    )
    op.create_index("jobs_by_creation", "jobs", ["created_at"], unique=False)
    op.create_index(
        "jobs_by_idempotency_key",
        "jobs",
        ["company_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index("jobs_by_plane", "jobs", ["data_plane_id", "created_at"], unique=False)
    op.create_index(
        "jobs_live_of_executor",
        "jobs",
        ["executor"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "jobs_pending",
        "jobs",
        ["data_plane_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "cancellations",
        sa.Column("job_id", Uuid(), nullable=False),
        sa.Column("data_plane_id", Uuid(), nullable=False),
        sa.Column("requested_by", Document(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("requested_at", Moment(), nullable=False),
        sa.Column("next_round_at", Moment(), nullable=False),
        sa.Column("lease", Uuid(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("rounds", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unanswered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claimed_at", Moment(), nullable=True),
        sa.Column("first_claimed_at", Moment(), nullable=True),
        sa.Column("first_stop_at", Moment(), nullable=True),
        sa.Column("waiting", sa.Text(), nullable=True),
        sa.Column("waiting_detail", sa.Text(), nullable=True),
        sa.Column("rung", sa.Text(), nullable=True),
        sa.Column("rung_since", Moment(), nullable=True),
        sa.Column("stuck_at", Moment(), nullable=True),
        sa.Column("stuck_round", sa.Integer(), nullable=True),
        sa.Column("settled_at", Moment(), nullable=True),
        sa.Column("leftovers", Document(), nullable=True),
        sa.CheckConstraint("rung IN ('ask', 'force', 'insist')", name=op.f("cancellations_known_rung")),
        sa.CheckConstraint(
            "waiting IN ('adapter_error', 'handle_unknown', 'not_closed', 'not_permitted', 'plane_silent', 'still_running')",
            name=op.f("cancellations_known_waiting"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("cancellations_job_id_fk")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("cancellations_pk")),
    )
    op.create_index(
        "cancellations_due",
        "cancellations",
        ["data_plane_id", "next_round_at"],
        unique=False,
        postgresql_where=sa.text("settled_at IS NULL"),
        sqlite_where=sa.text("settled_at IS NULL"),
    )
    op.create_index(
        "cancellations_suspect",
        "cancellations",
        ["data_plane_id", "next_round_at"],
        unique=False,
        postgresql_where=sa.text("settled_at IS NULL AND unanswered >= 3"),
        sqlite_where=sa.text("settled_at IS NULL AND unanswered >= 3"),
    )
    name = sa.table("installation", sa.column("name"))
    op.execute(name.insert().values(name=secrets.token_hex(8)))
