-- The archive's roles, with the least rights that each needs. In the archive's database, as a superuser, or as whoever owns
-- the database and what is in it and has CREATEROLE, as the first user of a managed service does:
--
--     etl db upgrade && psql -f ops/postgres/roles.sql && etl check
--
-- The first upgrade may be anybody's who owns the database; from then on it is etl_owner's. Run this again after every
-- upgrade, as new tables come with it: it can be run at any time and as often as one likes, also while etl runs.
--
-- No role has a password yet, and without one nobody gets in where passwords are asked for: in psql, \password etl_loader
--
--     etl_owner              owns the archive, and changes its schema: `etl db upgrade`; forgets people: `etl forget`; and
--                            names them: `etl names import`
--     etl_keeper             lets days go: export, prune, restore, verify, reconcile; etl's ETL_LAKE_DATABASE_URL
--     etl_loader             everything else that etl does: run, listen, rollup, dead, gaps, check, status
--     etl_reporting          asks the views of the schema `reporting`, and nothing else; telephone numbers are masked there
--     etl_reporting_numbers  no user: whoever is granted it sees whole numbers: GRANT etl_reporting_numbers TO …
--
-- Neither may delete a CDR, an event, a dead letter or a line of the ledger, nor change the ledger or a CDR's key, but that
-- unite_legs makes a call that 0.1 stored in two rows (legs 0 and 1) one. What is taken out of a CDR is in cdr_revisions. A
-- day goes from Postgres through the function drop_day, which the keeper alone may call, and which refuses unless the books
-- say that the lake has all of it; the loader may read the lake's books, and not change them.

-- psql alone would go on after an error, and end as if nothing had been.
\set ON_ERROR_STOP on

BEGIN;

DO $$
DECLARE
    role text;
    setting text;
BEGIN
    FOREACH role IN ARRAY ARRAY['etl_owner', 'etl_keeper', 'etl_loader', 'etl_reporting'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'etl_reporting_numbers') THEN
        CREATE ROLE etl_reporting_numbers;
    END IF;
    -- Only what isn't so yet: who runs this again needn't be who made them.
    FOREACH setting IN ARRAY ARRAY[
        'etl_owner SET timezone=UTC', 'etl_keeper SET timezone=UTC', 'etl_loader SET timezone=UTC',
        'etl_reporting SET timezone=UTC', 'etl_reporting SET default_transaction_read_only=on'
    ] LOOP
        IF NOT EXISTS (
            SELECT FROM pg_roles
            WHERE rolname = split_part(setting, ' ', 1) AND lower(split_part(setting, ' ', 3)) IN (
                SELECT lower(each) FROM unnest(rolconfig) AS each
            )
        ) THEN
            EXECUTE format('ALTER ROLE %s', replace(setting, '=', ' = '));
        END IF;
    END LOOP;
    -- Who isn't a superuser gives to etl_owner only as one of its members.
    IF NOT pg_has_role('etl_owner', 'USAGE') THEN
        EXECUTE format('GRANT etl_owner TO %I', current_user);
    END IF;
END
$$;

-- What anybody may do by default.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO etl_owner', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO etl_loader, etl_keeper', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO etl_reporting', current_database());
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO etl_owner', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO etl_loader, etl_keeper', current_schema());
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM etl_reporting', current_schema());
END
$$;

-- The archive becomes etl_owner's: tables, their partitions, the view, the functions.
ALTER SCHEMA etl_staging OWNER TO etl_owner;
ALTER SCHEMA reporting OWNER TO etl_owner;
ALTER SCHEMA iceberg OWNER TO etl_owner;

DO $$
DECLARE
    relation regclass;
    function regprocedure;
BEGIN
    FOR relation IN
        SELECT oid FROM pg_class
        WHERE relowner <> 'etl_owner'::regrole AND relkind IN ('r', 'p', 'v') AND (
            relnamespace IN ('reporting'::regnamespace, 'iceberg'::regnamespace)
            OR relnamespace = quote_ident(current_schema())::regnamespace AND relname IN (
                'alembic_version', 'audit_events', 'audit_gaps', 'cdr_revisions', 'cdrs', 'counted_days', 'dead_letters', 'exports', 'forgotten',
                'lake_drafts', 'lake_table_files', 'list_identities', 'listener_sessions', 'load_batch_days', 'load_batches', 'retired_servers', 'set_backs',
                'united_days', 'untraced_changes'
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
        WHERE proowner <> 'etl_owner'::regrole AND (
            pronamespace = 'reporting'::regnamespace
            OR pronamespace = quote_ident(current_schema())::regnamespace AND proname IN ('partition_name', 'tell_neighbours', 'make_partition', 'lock_partition', 'drop_day', 'forget_day', 'unite_legs', 'ledger_entries', 'has_partition', 'end_frozen', 'end_frozen_of_the_owner', 'hold_back_proofs', 'refuse_old_etl', 'refuse_old_exports', 'keep_version', 'leave_no_trace')
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO etl_owner', function);
    END LOOP;
    -- What a restore by another role left there, which the keeper couldn't take away. The lake has it all.
    FOR relation IN
        SELECT oid FROM pg_class
        WHERE relnamespace = 'etl_staging'::regnamespace AND relkind = 'r' AND relowner <> 'etl_keeper'::regrole
    LOOP
        EXECUTE format('DROP TABLE %s', relation);
    END LOOP;
END
$$;

-- Each begins with nothing, so that a right that is taken out of this file is taken away.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM etl_keeper, etl_loader, etl_reporting', current_schema());
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM etl_keeper, etl_loader, etl_reporting', current_schema());
END
$$;
REVOKE ALL ON ALL TABLES IN SCHEMA reporting FROM etl_keeper, etl_loader, etl_reporting;
REVOKE ALL ON ALL TABLES IN SCHEMA iceberg FROM etl_keeper, etl_loader, etl_reporting;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reporting FROM PUBLIC, etl_keeper, etl_loader, etl_reporting;
REVOKE ALL ON SCHEMA etl_staging FROM etl_loader; -- what it puts there the keeper would meet

-- Rights on a partitioned table are enough for all its partitions, those to come included.
GRANT SELECT ON alembic_version, forgotten, united_days TO etl_loader, etl_keeper; -- of people only keyed hashes
GRANT SELECT ON audit_gaps, exports TO etl_loader;
GRANT SELECT, INSERT ON cdrs, audit_events, load_batches, load_batch_days TO etl_loader, etl_keeper;
GRANT SELECT, INSERT ( -- never an id, which Postgres counts: who fills ids ahead keeps out all rows to come
    dialed_on, source, call_ref, leg, dialed_at, answered_at, connected_at, ended_at, call_time, hold_time, ring_time,
    call_dir, extension, number, dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, uuid, extra,
    batch_id, loaded_at, replaced_by
) ON cdr_revisions TO etl_loader, etl_keeper;
GRANT SELECT, INSERT ON retired_servers TO etl_loader;
GRANT SELECT, INSERT, UPDATE ON listener_sessions TO etl_loader;
GRANT UPDATE ( -- and never the key
    dialed_at, answered_at, connected_at, ended_at, call_time, hold_time, ring_time, call_dir, extension, number,
    dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, uuid, extra, batch_id, loaded_at
) ON cdrs TO etl_loader, etl_keeper;
GRANT UPDATE ( -- of an event that comes back from the lake, the version that was there first
    captured_at, origin, channel, kind, reference, event_type, status, campaign_ref, extension, call_ref, payload, batch_id
) ON audit_events TO etl_keeper;
GRANT SELECT, INSERT, UPDATE, DELETE ON exports TO etl_keeper; -- a revision that never came to its place is taken back
GRANT SELECT, INSERT, DELETE ON lake_drafts TO etl_keeper;
GRANT SELECT, INSERT, UPDATE, DELETE ON lake_table_files TO etl_keeper;
GRANT USAGE ON SCHEMA iceberg TO etl_keeper, etl_loader, etl_reporting; -- where the tables are, and no row of theirs
GRANT SELECT ON ALL TABLES IN SCHEMA iceberg TO etl_keeper, etl_loader, etl_reporting;
GRANT INSERT, UPDATE, DELETE ON iceberg.iceberg_tables TO etl_keeper;
GRANT SELECT, INSERT, UPDATE, DELETE ON list_identities TO etl_loader; -- digests, for 30 days
GRANT SELECT, DELETE ON list_identities TO etl_keeper; -- which lets them go
GRANT SELECT, INSERT (
    noticed_at, source_key, server, first_claimed_at, last_claimed_at, recalled_claims, recalled_messages, lost_claims,
    lost_messages, lost_from, lost_until
) ON set_backs TO etl_loader;
GRANT
    SELECT, INSERT (batch_id, position, source_key, reason, detail, raw, received_at, server),
    UPDATE (reason, detail, resolved_at, resolution)
    ON dead_letters TO etl_loader;
GRANT EXECUTE ON FUNCTION
    make_partition(text, date), unite_legs(date, integer, uuid, text), ledger_entries(),
    end_frozen(double precision), end_frozen_of_the_owner(double precision)
    TO etl_loader;
GRANT EXECUTE ON FUNCTION
    make_partition(text, date), lock_partition(text, date), drop_day(text, date, integer, text),
    unite_legs(date, integer, uuid, text), forget_day(text, date, integer, text)
    TO etl_keeper;
GRANT USAGE, CREATE ON SCHEMA etl_staging TO etl_keeper;

GRANT USAGE ON SCHEMA reporting TO etl_loader, etl_keeper, etl_reporting;
GRANT SELECT ON reporting.settings, reporting.calls, reporting.twins, reporting.lake_days TO etl_keeper;
GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO etl_loader;
REVOKE ALL ON reporting.secret FROM etl_loader; -- which the views read as their owner
GRANT INSERT, DELETE ON
    reporting.campaign_figures, reporting.agent_call_figures, reporting.agent_state_figures, reporting.status_changes,
    reporting.preview_figures
    TO etl_loader;
GRANT INSERT, UPDATE ON reporting.rolled_up TO etl_loader;
GRANT EXECUTE ON FUNCTION reporting.index_contacts(date), reporting.twins_counted(date) TO etl_loader;

-- The views read with their owner's rights, and mask what the asking user may not see. Functions like calls_on read
-- views only, with the asking user's rights: who may ask the view may call them. reporting.names is etl_owner's to write:
-- GRANT SELECT, INSERT, UPDATE, DELETE ON reporting.names TO … lets somebody else, who sees whole numbers there.
GRANT SELECT ON
    reporting.settings, reporting.end_reasons, reporting.isdn_causes,
    reporting.calls, reporting.events, reporting.agent_states, reporting.campaign_days, reporting.campaign_hours,
    reporting.agent_days, reporting.agent_hours, reporting.contact_history, reporting.call_audit,
    reporting.unmatched_calls, reporting.twins, reporting.load_days, reporting.lake_days, reporting.contact_calls,
    reporting.statuses, reporting.names_masked, reporting.person_days
    TO etl_reporting;

-- Whoever may ask a view, or one that reads it, may call its functions, and what it is made of; and who writes a day of
-- cdrs what its index of contacts is made of.
DO $$
DECLARE
    function regprocedure;
    role text;
BEGIN
    FOR function, role IN
        WITH RECURSIVE reads (view, base) AS ( -- a site's own views among them, wherever they are
            SELECT oid, oid FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'
            UNION
            SELECT rule.ev_class, reads.base FROM reads
            JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reads.view
            JOIN pg_rewrite rule ON d.classid = 'pg_rewrite'::regclass AND d.objid = rule.oid
        ), asked (base, itself, owner, grantee, privilege) AS (
            SELECT reads.base, reads.view = reads.base, b.relowner, a.grantee, a.privilege_type FROM reads
            JOIN pg_class b ON b.oid = reads.base
            JOIN pg_class v ON v.oid = reads.view
            CROSS JOIN aclexplode(coalesce(v.relacl, acldefault('r', v.relowner))) a
            UNION
            SELECT v.oid, true, v.relowner, a.grantee, a.privilege_type FROM pg_class v
            JOIN pg_attribute c ON c.attrelid = v.oid
            CROSS JOIN aclexplode(c.attacl) a
            WHERE v.relnamespace = 'reporting'::regnamespace AND v.relkind = 'v'
            UNION
            SELECT oid, true, relowner, a.grantee, a.privilege_type FROM pg_class CROSS JOIN aclexplode(relacl) a
            WHERE oid = 'cdrs'::regclass
        )
        SELECT DISTINCT f.oid::regprocedure,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_proc f
        CROSS JOIN asked a
        JOIN pg_class v ON v.oid = a.base
        WHERE f.pronamespace = 'reporting'::regnamespace AND f.proname NOT IN ('index_contacts', 'twins_counted')
        AND a.grantee <> a.owner
        AND a.privilege = CASE v.relkind WHEN 'v' THEN 'SELECT' ELSE 'INSERT' END
        AND (f.proname !~ '_(on|between)$' OR f.proname = 'gaps_between'
            OR a.itself AND f.proname IN (v.relname || '_on', v.relname || '_between'))
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', function, role);
    END LOOP;
END
$$;

COMMIT;
