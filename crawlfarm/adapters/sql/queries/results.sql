-- name: token_of_result
-- The token under which a job's result is kept.
SELECT token FROM results WHERE job = :job;

-- name: put_result
-- Keep a result in place of an earlier one of this job; no row when that has a higher token.
INSERT INTO results (job, token, data, expires_at) VALUES (:job, :token, :data, :expires_at)
ON CONFLICT (job) DO UPDATE
SET token = excluded.token, data = excluded.data, expires_at = excluded.expires_at
WHERE results.token <= excluded.token;

-- name: get_result
-- A result that has not expired.
SELECT data FROM results WHERE job = :job AND expires_at > :now;

-- name: purge_results
-- Drop what has expired.
DELETE FROM results WHERE expires_at <= :now;
