"""Rows that only gain cost a third less by the trace of 0019, which asks the same of each in fewer steps. And whoever
has the loader's password ends nobody's session by the net for the frozen but one that froze a minute ago.
"""

from alembic import context, op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# Whether a claim's id is of later than an hour from now. 0019 makes such an id of text for each row, which was a third
# of what each row costs. The same in bytes: its first six are the ms since 1970.
AN_HOUR_AHEAD = "uuid_send(NEW.batch_id) > int8send(((date_part('epoch', now()) * 1000)::bigint + 3600000) << 16)"

# As in 0014, but for how long a program must have been silent: a minute at least, whatever the caller says. A healthy
# one takes a second. Whoever could say less would end whatever the owner does, between two of its statements. That
# somebody waits right now (pg_blocking_pids) is no condition: who asks has waited until its lock timeout, and gave up.
END_FROZEN_OF_THE_OWNER = """
CREATE OR REPLACE FUNCTION {schema}.end_frozen_of_the_owner(seconds double precision)
RETURNS TABLE (pid integer, role name, idle double precision, ended boolean)
LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    FROM found f
    WHERE f.idle IS NULL
    OR f.wait_event = 'ClientRead' AND f.idle > greatest(end_frozen_of_the_owner.seconds, 60)
$$
"""


def upgrade() -> None:
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    _execute(_trigger().format(schema=schema))
    _execute(END_FROZEN_OF_THE_OWNER.format(schema=schema, literal=literal))
    comment = "end_frozen, with its owner''s rights: of those that have said nothing for a minute at least"
    _execute(f"COMMENT ON FUNCTION {schema}.end_frozen_of_the_owner(double precision) IS '{comment}'")


def _trigger() -> str:
    """That of 0019, with another way to say when a claim is ahead. Replaced in one step, on partitions too: no UPDATE
    goes without one of the two."""
    then = context.script.get_revision("0019").module
    before = f"NEW.batch_id > {then.AN_HOUR_FROM_NOW}"
    if then.TRIGGER.count(before) != 1:
        raise ValueError(f"there should be one of this in 0019's trigger: {before}")
    return str(then.TRIGGER).replace(before, AN_HOUR_AHEAD).replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
