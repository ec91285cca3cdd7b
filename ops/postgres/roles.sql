-- The archive's roles, with the least rights that each needs. In the archive's database, as a superuser:
--
--     etl db upgrade && psql -f ops/postgres/roles.sql && etl check
--
-- The first upgrade may be anybody's who owns the database; from then on it is etl_owner's. Run this again after every
-- upgrade, as new tables come with it: it can be run at any time and as often as one likes, also while etl runs.
--
-- No role has a password yet, and without one nobody gets in where passwords are asked for: in psql, \password etl_loader
--
--     etl_owner      owns the archive, and changes its schema: `etl db upgrade`
--     etl_loader     everything else that etl does: run, listen, export, prune, restore, dead, check, status
--     etl_reporting  reads, and nothing else; not the bytes of dead letters
--
-- The loader may not delete a CDR, an event, a dead letter or a line of the ledger, nor change the ledger. A day goes
-- from Postgres through the function forget_day, which refuses unless the books say that the lake has all of it.

BEGIN;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['etl_owner', 'etl_loader', 'etl_reporting'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('ALTER ROLE %I SET timezone = %L', role, 'UTC');
    END LOOP;
END
$$;

ALTER ROLE etl_reporting SET default_transaction_read_only = on;

-- What anybody may do by default.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO etl_owner', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO etl_loader', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO etl_reporting', current_database());
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO etl_owner', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO etl_loader, etl_reporting', current_schema());
END
$$;

-- The archive becomes etl_owner's: tables, their partitions, the view, the functions.
DO $$
DECLARE
    relation regclass;
    function regprocedure;
BEGIN
    FOR relation IN
        SELECT oid FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relowner <> 'etl_owner'::regrole AND (
            relname IN (
                'alembic_version', 'audit_events', 'audit_gaps', 'cdr_revisions', 'cdrs', 'dead_letters', 'exports',
                'listener_sessions', 'load_batch_days', 'load_batches'
            )
            OR oid IN (
                SELECT inhrelid FROM pg_inherits WHERE inhparent IN ('cdrs'::regclass, 'audit_events'::regclass)
            )
        )
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO etl_owner', relation);
    END LOOP;
    FOR function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proowner <> 'etl_owner'::regrole
        AND proname IN ('partition_name', 'make_partition', 'lock_partition', 'forget_day')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO etl_owner', function);
    END LOOP;
END
$$;
ALTER SCHEMA etl_staging OWNER TO etl_owner;

-- Each begins with nothing, so that a right that is taken out of this file is taken away.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM etl_loader, etl_reporting', current_schema());
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM etl_loader, etl_reporting', current_schema());
END
$$;

-- Rights on a partitioned table are enough for all its partitions, those to come included.
GRANT SELECT ON alembic_version, audit_gaps TO etl_loader;
GRANT SELECT, INSERT ON cdr_revisions, load_batches, load_batch_days TO etl_loader;
GRANT SELECT, INSERT, UPDATE ON cdrs, audit_events, listener_sessions TO etl_loader;
GRANT SELECT, INSERT, UPDATE, DELETE ON exports TO etl_loader; -- a revision that never came to its place is taken back
GRANT SELECT, INSERT, UPDATE (reason, detail, resolved_at, resolution) ON dead_letters TO etl_loader;
GRANT EXECUTE ON FUNCTION
    make_partition(text, date), lock_partition(text, date), forget_day(text, date, integer, text)
    TO etl_loader;
GRANT USAGE, CREATE ON SCHEMA etl_staging TO etl_loader;

GRANT SELECT ON
    cdrs, cdr_revisions, audit_events, audit_gaps, listener_sessions, load_batches, load_batch_days, exports
    TO etl_reporting;
GRANT SELECT (id, batch_id, position, source_key, reason, detail, received_at, resolved_at, resolution)
    ON dead_letters TO etl_reporting;

COMMIT;
