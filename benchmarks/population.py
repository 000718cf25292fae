"""The rows that are measured on, loaded set-wise past the triggers: the same ones for the floor and for ourselves."""

from uuid import UUID

import psycopg

PLANE = UUID("00000000-0000-4000-8000-000000000001")
EXECUTOR = "job-executor-00000000-0000-4000-8000-000000000002"
ENGINE = "benchmark"
INCARNATION = "1"

_INPUT = {}


def add_plane(connection: psycopg.Connection) -> None:
    """One plane with one executor."""
    connection.execute(
        """
        INSERT INTO data_planes (data_plane_id, display_name, platform, tags, permit_seconds, listing_lag_seconds,
                                 stuck_after_seconds, created_at)
        VALUES (%s, 'benchmark', 'platform_aws', '[]', 30, 0, 900, now())
        """,
        [PLANE],
    )
    connection.execute(
        "INSERT INTO executors (executor_id, data_plane_id, incarnation, address, registered_at) "
        "VALUES (%s, %s, 1, NULL, now())",
        [EXECUTOR, PLANE],
    )


def add_requested(connection: psycopg.Connection, count: int) -> None:
    """Jobs that were running when somebody asked for their cancellation, and that their executor has closed."""
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")  # no triggers, no look-ups of foreign keys
        connection.execute(_JOBS, _values(count))
        connection.execute(_CANCELLATIONS, _values(count))
        connection.execute(_MOVES, _values(count))


def _values(count: int) -> dict[str, object]:
    return {
        "count": count,
        "plane": PLANE,
        "executor": EXECUTOR,
        "engine": ENGINE,
        "incarnation": INCARNATION,
        "sql": "SELECT " + ", ".join(f"column_{number}" for number in range(30)) + " FROM ds_6402",
    }


_JOBS = """
INSERT INTO jobs (job_id, data_plane_id, state, moved_from, type, request_source, input, tag, executor,
                  executor_incarnation, engine_incarnation, epoch, attended_at, executor_closed_at, handle,
                  created_at, updated_at)
SELECT job_id, %(plane)s, 'pending_cancellation', 'running', 'materialize-view',
       '{"type": "api_user", "company_id": 1, "user_id": 7}',
       jsonb_build_object('nql', %(sql)s::text, 'dataset_id', 6402, 'compiled_sql', %(sql)s::text, 'stats_enabled', true),
       'countermand:' || name || ':' || %(plane)s || ':' || job_id || ':run',
       %(executor)s, 1, %(incarnation)s, gen_random_uuid(), now(), now(),
       jsonb_build_object('engine', %(engine)s::text, 'incarnation', %(incarnation)s::text, 'run_id', job_id),
       now() - interval '1 hour' + number * interval '1 millisecond', now()
FROM (SELECT number, gen_random_uuid() AS job_id FROM generate_series(1, %(count)s) AS number), installation
"""
_CANCELLATIONS = """
INSERT INTO cancellations (job_id, data_plane_id, requested_by, reason, requested_at, next_round_at)
SELECT job_id, data_plane_id, request_source, 'the benchmark asked', created_at, created_at FROM jobs
WHERE state = 'pending_cancellation'
"""
_MOVES = """
INSERT INTO audit (job_id, move, from_state, to_state, actor, reason, moved_at)
SELECT job_id, move, from_state, to_state, request_source, NULL, created_at
FROM jobs, (VALUES (1, 'submit', NULL, 'pending'), (2, 'start', 'pending', 'running'),
                   (3, 'request_cancellation', 'running', 'pending_cancellation')
           ) AS moves (number, move, from_state, to_state)
WHERE state = 'pending_cancellation'
ORDER BY created_at, number
"""
