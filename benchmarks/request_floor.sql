-- One request for a cancellation, as a person would write it who knows the tables and Postgres: one statement, one
-- NOTIFY, one transaction. Each client takes every eighth job. The row changes, and what guards them, are ours.

\set turn :turn + 1
\set number :turn * 8 + :client_id

WITH moved AS (
    UPDATE jobs
    SET state = 'pending_cancellation', moved_from = jobs.state, updated_at = now()
    WHERE job_id = (SELECT job_id FROM queue WHERE number = :number) AND state IN ('pending', 'running')
    RETURNING job_id, data_plane_id, moved_from, state
),
opened AS (
    INSERT INTO cancellations (job_id, data_plane_id, requested_by, requested_at, next_round_at)
    SELECT job_id, data_plane_id, '{"type": "api_user", "company_id": 1, "user_id": 7}', now(), now() FROM moved
),
audited AS (
    INSERT INTO audit (job_id, move, from_state, to_state, actor, moved_at)
    SELECT job_id, 'request_cancellation', moved_from, state,
           '{"type": "api_user", "company_id": 1, "user_id": 7}', now() FROM moved
)
SELECT pg_notify('countermand', data_plane_id::text || ' cancellations') FROM moved;
