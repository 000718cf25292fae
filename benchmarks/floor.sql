-- One batch: lease a hundred due cancellations, then settle them with receipts and audit rows. Two transactions, as
-- there have to be two: the work is stopped in between. What a person would write who knows the tables and Postgres:
-- set-wise, one round trip each, prepared, index scans alone, nothing sent that the next statement does not need.
-- The row changes, and what guards them, are those of control_plane/statements.py.
-- (\u003a is a colon: pgbench would take one before a word for a variable.)

WITH token AS MATERIALIZED (
    SELECT gen_random_uuid() AS lease
),
claimed AS (
    UPDATE cancellations
    SET lease = (SELECT lease FROM token), worker = 'pgbench', rounds = rounds + 1, unanswered = unanswered + 1,
        claimed_at = now(), first_claimed_at = coalesce(first_claimed_at, now()),
        next_round_at = now() + interval '30 seconds'
    WHERE job_id = ANY (ARRAY(
        SELECT job_id FROM cancellations
        WHERE data_plane_id = '00000000-0000-4000-8000-000000000001' AND next_round_at <= now()
          AND settled_at IS NULL AND unanswered < 3
        ORDER BY next_round_at LIMIT 100
        FOR UPDATE SKIP LOCKED))
    RETURNING job_id
)
SELECT array_agg(job_id) AS ids, (SELECT lease FROM token) AS lease FROM claimed \gset

WITH moved AS (
    UPDATE jobs
    SET state = 'cancelled', moved_from = jobs.state, updated_at = now(), ended_at = now(), receipt =
        '{"outcome": "stopped", "seen_at": "2026-01-01T00\u003a00\u003a00.000000Z", "worker": "pgbench",
          "closure": "executor_closed", "engine": "benchmark", "incarnation": "1", "engine_status": "CANCELLED",
          "tag": "countermand\u003a0123456789abcdef\u003a00000000-0000-4000-8000-000000000001\u003a00000000-0000-4000-8000-000000000003\u003arun",
          "handle": {"engine": "benchmark", "incarnation": "1", "run_id": "00000000-0000-4000-8000-000000000003"},
          "engine_ended_at": "2026-01-01T00\u003a00\u003a00.000000Z", "rounds": 1, "rung": "ask"}'
    FROM cancellations
    WHERE cancellations.job_id = ANY (:ids::uuid[]) AND cancellations.lease = :lease::uuid
      AND jobs.job_id = cancellations.job_id AND jobs.state = 'pending_cancellation' AND jobs.committed_at IS NULL
    RETURNING jobs.job_id, jobs.moved_from, jobs.state
),
settled AS (
    UPDATE cancellations
    SET settled_at = now(), waiting = NULL, waiting_detail = NULL, unanswered = 0,
        first_stop_at = coalesce(first_stop_at, now())
    FROM moved WHERE cancellations.job_id = moved.job_id
)
INSERT INTO audit (job_id, move, from_state, to_state, actor, moved_at)
SELECT job_id, 'cancel', moved_from, state, '{"type": "process", "name": "canceller\u003apgbench"}', now() FROM moved;
