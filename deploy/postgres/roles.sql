-- The least rights crawlfarm needs: one role that owns the schema, one that works with it.
--
--   createdb --encoding UTF8 --template template0 crawlfarm
--   psql -d crawlfarm -f deploy/postgres/roles.sql      # as a superuser; may be run again
--   psql -d crawlfarm -c '\password crawlfarm_owner' -c '\password crawlfarm_daemon'
--
-- Before the first start, and before the first start of each new version, somebody brings
-- the schema forward as its owner:
--
--   CRAWLFARM_DATABASE_URL=postgresql://crawlfarm_owner:…@HOST/crawlfarm python -m crawlfarm.adapters.sql
--
-- The daemons have CRAWLFARM_DATABASE_URL=postgresql://crawlfarm_daemon:…@HOST/crawlfarm. They may
-- read and write rows, and nothing else. (A small farm may give its daemons the owner's
-- URL: then whichever starts first brings the schema forward.)

DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'crawlfarm_owner') THEN
        CREATE ROLE crawlfarm_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'crawlfarm_daemon') THEN
        CREATE ROLE crawlfarm_daemon LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
    -- Nobody else comes in. TEMPORARY, which everybody has by default, goes with it.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO crawlfarm_owner, crawlfarm_daemon', current_database());
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO crawlfarm_owner;
GRANT USAGE ON SCHEMA public TO crawlfarm_daemon;

-- Whatever table the owner makes, now or in a later version, the daemons may use.
ALTER DEFAULT PRIVILEGES FOR ROLE crawlfarm_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO crawlfarm_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO crawlfarm_daemon;
