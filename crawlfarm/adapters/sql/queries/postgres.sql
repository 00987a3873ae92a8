-- What only PostgreSQL has: its locks and its sessions. Advisory locks of this program
-- have the first key 1667330674 ("cfar"); the second says which: 1 migrations, 2 the lock
-- daemon's place.

-- name: has_notes
-- A row when the table of applied migrations is there. (to_regclass() would answer from a
-- cache that waiting for the lock does not renew.)
SELECT 1 AS found FROM pg_tables WHERE tablename = 'migrations' AND schemaname = ANY (current_schemas(false));

-- name: lock_migrations
-- Let one process at a time migrate, until its transaction ends.
SELECT pg_advisory_xact_lock(1667330674, 1);

-- name: keep_commits_durable
-- An answered commit has reached the disk, whatever the role or server is set to.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';

-- name: wait_for_commits
-- A commit may take as long as it takes; but a transaction whose client stands still ends.
SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '60s', false);

-- name: this_connection
-- What names this connection on this server for good.
SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid();

-- name: end_connection
-- End an earlier connection of ours, if it is still there.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = :pid AND backend_start = :backend_start AND pid <> pg_backend_pid();

-- name: wait_for_place
-- How long to wait for the lock daemon's place.
SELECT set_config('lock_timeout', '3s', false);

-- name: take_place
-- Be the lock daemon of this database for as long as this connection lasts.
SELECT pg_advisory_lock(1667330674, 2);

-- name: who_has_the_place
-- The connection that is the lock daemon's.
SELECT l.pid, a.application_name AS application, host(a.client_addr) AS address
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = 1667330674 AND l.objid = 2 AND l.objsubid = 2 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: missing_rights
-- What this role may not do with the tables, and must.
SELECT t.name AS table_name, p.name AS right_name
FROM unnest(ARRAY['meta', 'jobs', 'submissions', 'results']) AS t (name),
     unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (name)
WHERE NOT has_table_privilege(t.name, p.name)
ORDER BY t.name, p.name;

-- name: clock
-- The server's clock, in seconds since the epoch.
SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds;

-- name: durability
-- What a power cut must not find off.
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') ORDER BY name;
