"""Revisions that stay: whoever writes a file enters its name before, and what was given up is remembered."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# As before, and the session must hold the day's lock, whose numbers are those of etl/store/locks.py.
DROP_DAY = """
CREATE OR REPLACE FUNCTION {schema}.drop_day(dataset text, day date, revision integer, sha256 text) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := format('%I.%I', {literal}, {schema}.partition_name(dataset, day));
BEGIN
    PERFORM FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted AND mode = 'ExclusiveLock' AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = (CASE drop_day.dataset WHEN 'cdrs' THEN 1702128644 ELSE 1702128645 END)::oid
    AND objid = (drop_day.day - date '2000-01-01')::oid;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'who drops a day must hold its lock, and this session doesn''t hold that of % %', dataset, day
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- In the order in which loaders take them. From then on nobody is in the day, and nobody gets in.
    EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE', {literal}, dataset);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', partition);
    UPDATE {schema}.exports AS proof SET dropped_at = now()
    WHERE (proof.dataset, proof.day, proof.revision, proof.sha256)
        = (drop_day.dataset, drop_day.day, drop_day.revision, drop_day.sha256)
    AND proof.published_at IS NOT NULL AND proof.dropped_at IS NULL AND proof.erased_at IS NULL
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


def upgrade() -> None:
    op.add_column(
        "exports",
        sa.Column(
            "erased_at",
            sa.DateTime(timezone=True),
            comment="When its file had to go at once, as it may hold a person that was forgotten; null if not",
        ),
    )
    op.create_table(
        "lake_drafts",
        sa.Column("name", sa.Text(), nullable=False, comment="Under the lake's root"),
        sa.Column("dataset", sa.Text(), nullable=False, comment="Table: cdrs or audit_events"),
        sa.Column("day", sa.Date(), nullable=False, comment="The partition's day"),
        sa.Column(
            "revision",
            sa.Integer(),
            comment="Number of a revision that was given up before it was published, and stays taken; null: never one",
        ),
        sa.Column("worker", sa.Text(), nullable=False, comment="Who wrote"),
        sa.Column(
            "began_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now(), comment="Since when"
        ),
        sa.PrimaryKeyConstraint("name"),
        comment="Files that somebody wrote into the lake, or was about to, and that no revision of the books is",
    )
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    op.get_bind().exec_driver_sql(DROP_DAY.format(schema=schema, literal=literal).replace("%", "%%"))


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")
