"""No partition for a day that is far ahead: whoever has the loader's login can make two of them, and not eight thousand
years; and what is dated so would be exported when its day is over, and not before.
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# As in 0014, but for the bound, by this server's own clock. Days before 2000 have no name, see partition_name. What is
# raised isn't a row's fault, since the writer asks for the time before: clocks were set meanwhile, and it tries again.
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
    IF day > (now() AT TIME ZONE 'UTC')::date + 2 THEN
        RAISE EXCEPTION 'no partition of % for % yet: it lies more than two days ahead of this server''s clock',
            dataset, day USING ERRCODE = 'object_not_in_prerequisite_state';
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


def upgrade() -> None:
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    _execute(MAKE_PARTITION.format(schema=schema, literal=literal))


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
