"""Who makes a partition waits for nobody's list, and not without end; whoever is frozen while loaders wait is ended."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# As in 0005, but: a partition that is there costs no lock; each table has a lock of its own, so that nobody waits for a
# table that isn't his; and the wait for others' locks ends, as an ANALYZE or a long CREATE INDEX keeps partitions from
# being attached. Then it's for the caller to wait, who has a pulse and says so.
MAKE_PARTITION = """
CREATE OR REPLACE FUNCTION {schema}.make_partition(dataset text, day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $$
DECLARE
    name text := {schema}.partition_name(dataset, day);
    partition text := format('%I.%I', {literal}, name);
    parent text := format('%I.%I', {literal}, dataset);
BEGIN
    IF {schema}.has_partition(dataset, day) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(x'65746c01'::integer, CASE dataset WHEN 'cdrs' THEN 1 ELSE 2 END);
    IF to_regclass(partition) IS NULL THEN
        BEGIN
            EXECUTE format(
                'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)',
                partition, parent
            );
        EXCEPTION
            -- Only while this function takes the place of the one before, which takes another lock.
            WHEN unique_violation OR duplicate_table THEN
                RAISE EXCEPTION 'another worker makes %', name USING ERRCODE = 'lock_not_available';
        END;
        EXECUTE format(
            'ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, partition, day, day + 1
        );
        PERFORM {schema}.tell_neighbours(dataset, day);
    ELSIF NOT {schema}.has_partition(dataset, day) THEN
        RAISE EXCEPTION 'table % exists, but it''s no partition of %: attach or rename it', name, dataset
            USING ERRCODE = 'duplicate_table';
    END IF;
END
$$
"""
# By names in the catalog itself: to_regclass would remember that there is none, and not hear meanwhile who makes one.
HAS_PARTITION = """
CREATE FUNCTION {schema}.has_partition(dataset text, day date) RETURNS boolean
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_inherits i
        JOIN pg_class part ON part.oid = i.inhrelid
        JOIN pg_class parent ON parent.oid = i.inhparent AND parent.relnamespace = part.relnamespace
        JOIN pg_namespace n ON n.oid = parent.relnamespace
        WHERE (n.nspname, parent.relname) = ({literal}, has_partition.dataset)
        AND part.relname = {schema}.partition_name(has_partition.dataset, has_partition.day) AND NOT i.inhdetachpending
    )
$$
"""

# A session of etl has one of the locks of etl/store/locks.py, a new one always. It may hold up loaders by any lock on
# the archive's tables but that of who only reads, and by those that loaders take for a claim (03), a midnight (07) and
# a new partition (01). Frozen it is if Postgres has waited for so long for its program, also within a COPY. What a
# session does is told to its own role only, and to a few others: to whom it isn't told, `idle` is null.
END_FROZEN = """
CREATE FUNCTION {schema}.{name}(seconds double precision)
RETURNS TABLE (pid integer, role name, idle double precision, ended boolean)
LANGUAGE sql STRICT {security} SET search_path = pg_catalog, pg_temp AS $$
    WITH held AS (
        SELECT l.pid, c.relnamespace, l.mode, CASE l.objsubid WHEN 2 THEN l.classid::bigint - 1702128640 END AS kind
        FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation
        WHERE l.granted AND l.pid <> pg_backend_pid() AND l.locktype IN ('relation', 'advisory')
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ), in_the_way AS (
        SELECT h.pid FROM held h
        WHERE h.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {literal}) AND h.mode <> 'AccessShareLock'
        OR h.kind IN (1, 3, 7)
        INTERSECT
        SELECT h.pid FROM held h WHERE h.kind BETWEEN 1 AND 8
    ), found AS (
        SELECT a.pid, a.usename, a.wait_event, extract(epoch FROM clock_timestamp() - a.state_change) AS idle,
            (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR NOT r.rolsuper
            AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')) AS may
        FROM in_the_way JOIN pg_stat_activity a USING (pid) JOIN pg_roles r ON r.oid = a.usesysid
    )
    SELECT f.pid, f.usename, f.idle::double precision,
        CASE WHEN f.may AND f.idle IS NOT NULL THEN pg_terminate_backend(f.pid) ELSE false END
    FROM found f WHERE f.idle IS NULL OR f.wait_event = 'ClientRead' AND f.idle > end_frozen.seconds
$$
"""


def upgrade() -> None:
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    _execute(HAS_PARTITION.format(schema=schema, literal=literal))
    _execute(MAKE_PARTITION.format(schema=schema, literal=literal))
    for name, security in (("end_frozen", "SECURITY INVOKER"), ("end_frozen_of_the_owner", "SECURITY DEFINER")):
        body = END_FROZEN.replace("end_frozen.seconds", f"{name}.seconds")
        _execute(body.format(schema=schema, literal=literal, name=name, security=security))
    comments = {
        "has_partition(text, date)": "Whether the partition of a day is there",
        "end_frozen(double precision)": "Ends sessions of etl that hold up loaders and whose programs have said nothing"
        " for so many seconds, as far as the caller may; tells of all, those that he can''t look at (idle is null) too",
        "end_frozen_of_the_owner(double precision)": "end_frozen, with its owner''s rights",
    }
    for signature, comment in comments.items():
        _execute(f"COMMENT ON FUNCTION {schema}.{signature} IS '{comment}'")
    _execute(f"REVOKE ALL ON FUNCTION {schema}.end_frozen_of_the_owner(double precision) FROM PUBLIC")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
