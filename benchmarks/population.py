"""The rows that are measured on, loaded set-wise past the triggers: the same for the floor and for ourselves."""

from typing import Any
from uuid import UUID

import psycopg

PLANE = UUID("00000000-0000-4000-8000-000000000001")
EXECUTOR = "job-executor-00000000-0000-4000-8000-000000000002"
ENGINE = "benchmark"
INCARNATION = "1"

_SQL = f"SELECT {', '.join(f'column_{number}' for number in range(30))} FROM ds_6402"  # noqa: S608 (it is never run)


def add_plane(connection: psycopg.Connection, plane: UUID = PLANE) -> None:
    """One plane with one executor."""
    values = {"plane": plane, "executor": _executor_of(plane)}
    connection.execute(_PLANE, values)
    connection.execute(_EXECUTOR, values)


def _executor_of(plane: UUID) -> str:
    return EXECUTOR if plane == PLANE else f"job-executor-{plane}"


def add_running(connection: psycopg.Connection, count: int, plane: UUID = PLANE) -> None:
    """Jobs that run, with a handle and an executor that has closed them: nothing more of them can start."""
    _add_jobs(connection, count, plane, state="running", moved_from="pending", receipt=None)


def add_requested(connection: psycopg.Connection, count: int) -> None:
    """The same, and somebody asked for their cancellation a millisecond after each other: all are due."""
    _add_jobs(connection, count, state="pending_cancellation", moved_from="running", receipt=None)


def add_ended(connection: psycopg.Connection, count: int) -> None:
    """The same, cancelled and settled; without audit rows, which nothing that is measured on them looks at."""
    _add_jobs(connection, count, state="cancelled", moved_from="pending_cancellation", receipt=_RECEIPT)


def _add_jobs(connection: psycopg.Connection, count: int, plane: UUID = PLANE, **fields: Any) -> None:
    values = {
        "count": count,
        "plane": plane,
        "executor": _executor_of(plane),
        "engine": ENGINE,
        "incarnation": INCARNATION,
        "sql": _SQL,
        **fields,
    }
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")  # no triggers, no look-ups of foreign keys
        connection.execute(_JOBS, values)
        connection.execute(_CANCELLATIONS, values)
        connection.execute(_MOVES, values)


_RECEIPT = '{"outcome": "stopped", "seen_at": "2026-01-01T00:00:00Z", "worker": "benchmark"}'

_PLANE = """
INSERT INTO data_planes (data_plane_id, display_name, platform, tags, permit_seconds, listing_lag_seconds,
                         stuck_after_seconds, created_at)
VALUES (%(plane)s, 'benchmark ' || %(plane)s, 'platform_aws', '[]', 30, 0, 900, now())
"""
_EXECUTOR = """
INSERT INTO executors (executor_id, data_plane_id, incarnation, registered_at)
VALUES (%(executor)s, %(plane)s, 1, now())
"""
_JOBS = """
INSERT INTO jobs (job_id, data_plane_id, state, moved_from, type, request_source, input, tag, executor,
                  executor_incarnation, engine_incarnation, epoch, attended_at, executor_closed_at, handle, receipt,
                  created_at, updated_at, ended_at)
SELECT job_id, %(plane)s, %(state)s, %(moved_from)s, 'materialize-view',
       '{"type": "api_user", "company_id": 1, "user_id": 7}',
       jsonb_build_object('nql', %(sql)s::text, 'dataset_id', 6402, 'compiled_sql', %(sql)s::text,
                          'stats_enabled', true),
       'countermand:' || name || ':' || %(plane)s || ':' || job_id || ':run',
       %(executor)s, 1, %(incarnation)s, gen_random_uuid(), now(), now(),
       jsonb_build_object('engine', %(engine)s::text, 'incarnation', %(incarnation)s::text, 'run_id', job_id),
       %(receipt)s::jsonb, now() - interval '1 hour' + number * interval '1 millisecond', now(),
       CASE WHEN %(state)s = 'cancelled' THEN now() END
FROM (SELECT number, uuidv7() AS job_id FROM generate_series(1, %(count)s) AS number), installation
"""
_CANCELLATIONS = """
INSERT INTO cancellations (job_id, data_plane_id, requested_by, reason, requested_at, next_round_at, settled_at)
SELECT job_id, data_plane_id, request_source, 'the benchmark asked', created_at, created_at, ended_at
FROM jobs WHERE state = %(state)s AND state <> 'running' AND data_plane_id = %(plane)s
ORDER BY created_at
"""
_MOVES = """
INSERT INTO audit (job_id, move, from_state, to_state, actor, moved_at)
SELECT job_id, move, from_state, to_state, request_source, created_at
FROM jobs, (VALUES (1, 'submit', NULL, 'pending'), (2, 'start', 'pending', 'running'),
                   (3, 'request_cancellation', 'running', 'pending_cancellation')
           ) AS moves (number, move, from_state, to_state)
WHERE state = %(state)s AND data_plane_id = %(plane)s
  AND number <= CASE state WHEN 'running' THEN 2 WHEN 'pending_cancellation' THEN 3 ELSE 0 END
ORDER BY created_at, number
"""
