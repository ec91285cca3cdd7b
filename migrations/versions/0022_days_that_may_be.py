"""No partition for a day that is far ahead: whoever has the loader's login can make two of them, and not eight thousand
years; and what is dated so would be exported when its day is over, and not before. And nobody keeps days from being
made but who may change the archive's tables: an advisory lock, as 0014 takes one, can be held by any login.
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# As in 0014, but for two things. The bound, by this server's own clock: days before 2000 have no name, see
# partition_name. What is raised is no class of errors that Postgres has for rows or constraints, so that it's never
# taken for a row's fault: either a clock is wrong, or the day comes. And the lock: makers of one table's days go one
# after the other by the lock that attaching takes anyway. ONLY, or it would be one of each partition.
MAKE_PARTITION = """
CREATE OR REPLACE FUNCTION {schema}.make_partition(dataset text, day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $$
DECLARE
    name text := {schema}.partition_name(dataset, day);
    partition text := format('%I.%I', {literal}, name);
    parent text := format('%I.%I', {literal}, dataset);
    today date := now() AT TIME ZONE 'UTC';
BEGIN
    IF {schema}.has_partition(dataset, day) THEN
        RETURN;
    END IF;
    IF day > today + 2 THEN
        RAISE EXCEPTION 'no partition of % for % yet: here it''s %, and days come two days ahead', dataset, day, today
            USING ERRCODE = 'P0926';
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
    IF {schema}.has_partition(dataset, day) THEN  -- by now: somebody else has made it
        RETURN;
    END IF;
    IF to_regclass(partition) IS NOT NULL THEN
        RAISE EXCEPTION 'table % exists, but it''s no partition of %: attach or rename it', name, dataset
            USING ERRCODE = 'duplicate_table';
    END IF;
    BEGIN
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)', partition, parent
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
END
$$
"""


def upgrade() -> None:
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    _execute(MAKE_PARTITION.format(schema=schema, literal=literal))
    comment = "Makes the partition of a day, from 2000 to two days ahead, unless it is there"
    _execute(f"COMMENT ON FUNCTION {schema}.make_partition(text, date) IS '{comment}'")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
