-- The roles of a deployment, each with what it needs and no more. Run this once as the project's administrator (on
-- Supabase: `postgres`, in the SQL editor; elsewhere `psql -f`), before or after the tables are made, and again whenever
-- `predictbench doctor` misses a right: running it twice changes nothing.
--
--   predictbench_owner    owns the schema and migrates it        SUPABASE_MIGRATION_DB_URL   `predictbench db upgrade`
--   predictbench_writer   stores runs, prunes, exports           SUPABASE_DB_URL             everything else of ours
--   predictbench_reader   reads; for a service behind a page     the service's own setting
--   predictbench_dagster  Dagster's tables, in their own schema  DAGSTER_POSTGRES_URL
--
-- No password is in here. Give each role one of its own afterwards, a long random one (`openssl rand -hex 24` needs no
-- escaping in a URL). In psql `\password predictbench_owner` keeps it out of every history and log; in the SQL editor:
--
--   ALTER ROLE predictbench_owner   PASSWORD '...';
--   ALTER ROLE predictbench_writer  PASSWORD '...';
--   ALTER ROLE predictbench_reader  PASSWORD '...';
--   ALTER ROLE predictbench_dagster PASSWORD '...';
--
-- Row level security stays off in our schema, on purpose. It would guard rows against roles that may enter; here nobody
-- may who has no business with all rows: the public API's roles (anon, authenticated, service_role) are kept out at the
-- schema's door, below, and the API does not serve the schema in the first place. Policies would be one more thing to
-- get wrong with every new table, and without them the owner's views would be the only way in.

BEGIN;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['predictbench_owner', 'predictbench_writer', 'predictbench_reader', 'predictbench_dagster']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        -- So that the administrator, who is no superuser on Supabase, may make and hand over what belongs to the role.
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
END $$;

-- The smallest Supabase server takes 60 connections, and its pooler opens up to 15 for each role: so none can shut out
-- the others. A run holds two (DB_POOL_MAX_SIZE).
ALTER ROLE predictbench_owner CONNECTION LIMIT 5;
ALTER ROLE predictbench_writer CONNECTION LIMIT 20;
ALTER ROLE predictbench_reader CONNECTION LIMIT 15;
ALTER ROLE predictbench_dagster CONNECTION LIMIT 15;

-- An ALTER by hand that waits for a table makes everybody wait who comes after it. Migrations set limits of their own.
ALTER ROLE predictbench_owner SET lock_timeout = '5s';
-- A batch takes about a second; a statement that takes two minutes is stuck, and is tried again. A runner that dies in
-- the middle of a transaction must not keep the run's row from the next attempt.
ALTER ROLE predictbench_writer SET statement_timeout = '2min';
ALTER ROLE predictbench_writer SET lock_timeout = '30s';
ALTER ROLE predictbench_writer SET idle_in_transaction_session_timeout = '1min';
-- Somebody waits for a page, and a query that is too slow must not take the run's share of the server. Read-only is the
-- default of its sessions beside its lack of rights: a mistake is told as such.
ALTER ROLE predictbench_reader SET statement_timeout = '15s';
ALTER ROLE predictbench_reader SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE predictbench_reader SET default_transaction_read_only = on;
-- Dagster names no schema; this is what keeps its tables, alembic_version among them, out of everyone's way. Its own
-- migrations and deletions of old runs take longer than a page of its UI, for which the UI sets a limit itself.
ALTER ROLE predictbench_dagster SET search_path = dagster;
ALTER ROLE predictbench_dagster SET statement_timeout = '5min';
ALTER ROLE predictbench_dagster SET idle_in_transaction_session_timeout = '5min';

CREATE SCHEMA IF NOT EXISTS predictbench AUTHORIZATION predictbench_owner;
CREATE SCHEMA IF NOT EXISTS dagster AUTHORIZATION predictbench_dagster;

-- Where the tables came first (seed_supabase.sql, or a migration run as somebody else), they change hands.
DO $$
DECLARE
    thing record;
BEGIN
    IF EXISTS (
        SELECT FROM pg_namespace WHERE nspname = 'predictbench' AND nspowner <> 'predictbench_owner'::regrole
    ) THEN
        ALTER SCHEMA predictbench OWNER TO predictbench_owner;
    END IF;
    FOR thing IN
        SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'predictbench' AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relowner <> 'predictbench_owner'::regrole
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO predictbench_owner', thing.name);
    END LOOP;
END $$;

-- Nobody but these roles passes the door.
REVOKE ALL ON SCHEMA predictbench, dagster FROM PUBLIC;
DO $$
DECLARE
    role text;
BEGIN
    FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role') LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA predictbench, dagster FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA predictbench, dagster FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA predictbench, dagster FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA predictbench, dagster FROM %I', role);
    END LOOP;
END $$;
GRANT USAGE ON SCHEMA predictbench TO predictbench_writer, predictbench_reader;

-- Tables that later migrations make. (Rights to delete are given by name only, below.)
ALTER DEFAULT PRIVILEGES FOR ROLE predictbench_owner IN SCHEMA predictbench
    GRANT SELECT, INSERT, UPDATE ON TABLES TO predictbench_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE predictbench_owner IN SCHEMA predictbench
    GRANT SELECT ON TABLES TO predictbench_reader;
-- Everybody may call a new function unless told otherwise.
ALTER DEFAULT PRIVILEGES FOR ROLE predictbench_owner, predictbench_dagster REVOKE EXECUTE ON ROUTINES FROM PUBLIC;

-- begin: generated from predictbench_assets/database/privileges.py by `python -m predictbench_assets.database.migrations`
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('predictbench_alembic_version', 'SELECT'),
        ('archives', 'SELECT, INSERT'),
        ('events', 'SELECT, INSERT, UPDATE'),
        ('experiment_results', 'SELECT, INSERT'),
        ('experiment_runs', 'SELECT, INSERT'),
        ('experiment_scores', 'SELECT, INSERT, UPDATE, DELETE'),
        ('experiments', 'SELECT, INSERT, UPDATE'),
        ('forecast_digests', 'SELECT, INSERT'),
        ('leaderboard_rows', 'SELECT, INSERT'),
        ('leaderboards', 'SELECT, INSERT'),
        ('model_calls', 'SELECT, INSERT, UPDATE'),
        ('processed_contracts', 'SELECT, INSERT, UPDATE, DELETE'),
        ('processing_failures', 'SELECT, INSERT, UPDATE, DELETE'),
        ('processed_markets', 'SELECT, INSERT, UPDATE'),
        ('processing_attempts', 'SELECT, INSERT, UPDATE'),
        ('processing_runs', 'SELECT, INSERT, UPDATE'),
        ('resolution_checks', 'SELECT, INSERT, UPDATE'),
        ('resolution_observations', 'SELECT, INSERT'),
        ('resolutions_due', 'SELECT, INSERT, DELETE'),
        ('scored_runs', 'SELECT, INSERT, UPDATE'),
        ('scores_due', 'SELECT, INSERT, DELETE'),
        ('snapshots', 'SELECT, INSERT, UPDATE'),
        ('latest_experiment_results', 'SELECT'),
        ('market_resolutions', 'SELECT')
    ) AS t(name, rights) WHERE to_regclass('predictbench.' || name) IS NOT NULL LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'predictbench_writer') THEN
            EXECUTE 'REVOKE ALL ON predictbench.' || wanted.name || ' FROM predictbench_writer';
            EXECUTE 'GRANT ' || wanted.rights || ' ON predictbench.' || wanted.name || ' TO predictbench_writer';
        END IF;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'predictbench_reader') THEN
            EXECUTE 'REVOKE ALL ON predictbench.' || wanted.name || ' FROM predictbench_reader';
            EXECUTE 'GRANT SELECT ON predictbench.' || wanted.name || ' TO predictbench_reader';
        END IF;
    END LOOP;
END $$;
-- end

COMMIT;
