-- name: load_jobs
-- Every job of the table.
SELECT job, flight, spec, state, token, attempt, master, cancel, progress, receipt, error_code, error_message,
       created_at, ended_at
FROM jobs ORDER BY created_at, job;

-- name: load_submissions
-- Every submission of these jobs.
SELECT client, id, job, body, detach, withdrawn FROM submissions;

-- name: load_meta
-- The counters: the highest token given, the number of the last commit, the number of the
-- last reading of the table.
SELECT name, value FROM meta;

-- name: put_job
-- A new job, or what changed of one: its question never does.
INSERT INTO jobs (job, flight, spec, state, token, attempt, master, cancel, progress, receipt, error_code,
                  error_message, created_at, ended_at)
VALUES (:job, :flight, :spec, :state, :token, :attempt, :master, :cancel, :progress, :receipt, :error_code,
        :error_message, :created_at, :ended_at)
ON CONFLICT (job) DO UPDATE
SET state = excluded.state, token = excluded.token, attempt = excluded.attempt, master = excluded.master,
    cancel = excluded.cancel, progress = excluded.progress, receipt = excluded.receipt,
    error_code = excluded.error_code, error_message = excluded.error_message, ended_at = excluded.ended_at;

-- name: put_submission
-- A new submission, or that its client withdrew it.
INSERT INTO submissions (client, id, job, body, detach, withdrawn)
VALUES (:client, :id, :job, :body, :detach, :withdrawn)
ON CONFLICT (client, id) DO UPDATE
SET withdrawn = excluded.withdrawn;

-- name: purge_job
-- Drop a job; its submissions go with it.
DELETE FROM jobs WHERE job = :job;

-- name: purge_ended_jobs
-- Drop the jobs that ended before a time, on the wall clock.
DELETE FROM jobs WHERE ended_at <= :before;

-- name: raise_meta
-- Raise a counter; it never goes back.
UPDATE meta SET value = :value WHERE name = :name AND value < :value;

-- name: begin_reading
-- Whoever read the table before may not write any more. It waits for one that is writing.
UPDATE meta SET value = value + 1 WHERE name = 'reading';

-- name: hold_reading
-- Changes nothing, but no row when somebody else has read the table since; and nobody can
-- before this transaction ends.
UPDATE meta SET value = :reading WHERE name = 'reading' AND value = :reading;
