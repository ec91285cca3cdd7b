"""What only the tables' owner may do, as functions: so that whoever loads needn't be the owner. And a schema for tables
that come and go, so that whoever loads needs no right to make tables beside the archive's.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STAGING = "etl_staging"

# They run with their owner's rights. So each name is a literal, or built here from arguments that were looked at, and
# nothing is looked for where others may put something of their own.
PARTITION_NAME = """
CREATE FUNCTION {schema}.partition_name(dataset text, day date) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF dataset NOT IN ('cdrs', 'audit_events') OR day NOT BETWEEN '2000-01-01' AND '9999-12-31' THEN
        RAISE EXCEPTION 'there is no partition of % for %', quote_literal(dataset), day USING ERRCODE = 'invalid_name';
    END IF;
    RETURN dataset || to_char(day, '_YYYYMMDD');
END
$$
"""

# A business day lies on up to three UTC days. What is asked of one excludes the partitions of others by this CHECK,
# where bounds do not: from those of dialed_on the planner proves nothing about `dialed_on + 1`.
TELL_NEIGHBOURS = """
CREATE FUNCTION {schema}.tell_neighbours(dataset text, day date) RETURNS void
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'ALTER TABLE %1$I.%2$I ADD CONSTRAINT neighbours'
        ' CHECK (%3$I - 2 = %4$L AND %3$I - 1 = %5$L AND %3$I + 1 = %6$L AND %3$I + 2 = %7$L)',
        {literal}, {schema}.partition_name(dataset, day),
        CASE dataset WHEN 'cdrs' THEN 'dialed_on' ELSE 'captured_on' END, day - 2, day - 1, day + 1, day + 2
    );
END
$$
"""
TELL_ALL_NEIGHBOURS = """
SELECT {schema}.tell_neighbours(parent.relname, to_date(right(part.relname, 8), 'YYYYMMDD'))
FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent
WHERE inhparent IN (to_regclass('cdrs'), to_regclass('audit_events'))
"""

FORGET_NEIGHBOURS = """
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN
        SELECT inhrelid FROM pg_inherits WHERE inhparent IN (to_regclass('cdrs'), to_regclass('audit_events'))
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT neighbours', partition);
    END LOOP;
END
$$
"""

# CREATE TABLE … PARTITION OF would lock the parent against everybody; attaching lets the loaders go on. The advisory
# lock serialises the making of partitions across workers; nobody else in this database uses its number.
MAKE_PARTITION = """
CREATE FUNCTION {schema}.make_partition(dataset text, day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := {schema}.partition_name(dataset, day);
    partition text := format('%I.%I', {literal}, name);
    parent text := format('%I.%I', {literal}, dataset);
BEGIN
    PERFORM pg_advisory_xact_lock(x'65746c01'::bigint);
    IF to_regclass(partition) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)', partition, parent
        );
        EXECUTE format(
            'ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, partition, day, day + 1
        );
        PERFORM {schema}.tell_neighbours(dataset, day);
    ELSIF NOT EXISTS (
        SELECT FROM pg_inherits
        WHERE inhparent = to_regclass(parent) AND inhrelid = to_regclass(partition) AND NOT inhdetachpending
    ) THEN
        RAISE EXCEPTION 'table % exists, but it''s no partition of %: attach or rename it', name, dataset
            USING ERRCODE = 'duplicate_table';
    END IF;
END
$$
"""

LOCK_PARTITION = """
CREATE FUNCTION {schema}.lock_partition(dataset text, day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'LOCK TABLE ONLY %I.%I IN SHARE ROW EXCLUSIVE MODE', {literal}, {schema}.partition_name(dataset, day)
    );
END
$$
"""

# The locks are taken in the order in which loaders take them. From then on nobody is in the day, and nobody gets in.
FORGET_DAY = """
CREATE FUNCTION {schema}.forget_day(dataset text, day date, revision integer, sha256 text) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := format('%I.%I', {literal}, {schema}.partition_name(dataset, day));
BEGIN
    EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE', {literal}, dataset);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', partition);
    UPDATE {schema}.exports AS proof SET dropped_at = now()
    WHERE (proof.dataset, proof.day, proof.revision, proof.sha256)
        = (forget_day.dataset, forget_day.day, forget_day.revision, forget_day.sha256)
    AND proof.published_at IS NOT NULL AND proof.dropped_at IS NULL
    AND proof.revision = (
        SELECT max(any_.revision) FROM {schema}.exports AS any_
        WHERE any_.dataset = proof.dataset AND any_.day = proof.day
    )
    AND proof.entries = (
        SELECT count(*) FROM {schema}.load_batch_days AS entry
        WHERE entry.dataset = proof.dataset AND entry.day = proof.day
    );
    IF FOUND THEN
        EXECUTE format('DROP TABLE %s', partition);
        RETURN true;
    END IF;
    RETURN false;
END
$$
"""

FUNCTIONS = {
    "partition_name(text, date)": (PARTITION_NAME, "What the partition of a day is called"),
    "tell_neighbours(text, date)": (TELL_NEIGHBOURS, "Gives a partition the CHECK that lets business days exclude it"),
    "make_partition(text, date)": (MAKE_PARTITION, "Makes the partition of a day, unless it is there"),
    "lock_partition(text, date)": (LOCK_PARTITION, "Keeps loaders out of a day until the end of the transaction"),
    "forget_day(text, date, integer, text)": (
        FORGET_DAY,
        "Drops the partition of a day if this revision is the latest, is published and has all of the ledger;"
        " says whether it did",
    ),
}


def upgrade() -> None:
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    for signature, (body, comment) in FUNCTIONS.items():
        _execute(body.format(schema=schema, literal=literal))
        _execute(f"COMMENT ON FUNCTION {schema}.{signature} IS '{comment}'")
        _execute(f"REVOKE ALL ON FUNCTION {schema}.{signature} FROM PUBLIC")
    _execute(TELL_ALL_NEIGHBOURS.format(schema=schema))
    _execute(f"CREATE SCHEMA IF NOT EXISTS {STAGING}")
    _execute(f"COMMENT ON SCHEMA {STAGING} IS 'Rows on their way back from the lake, for as long as that takes'")


def downgrade() -> None:
    _execute(f"DROP SCHEMA {STAGING} CASCADE")
    _execute(FORGET_NEIGHBOURS)
    for signature in reversed(FUNCTIONS):
        _execute(f"DROP FUNCTION {signature}")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
