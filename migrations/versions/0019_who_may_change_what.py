"""What is taken out of a CDR leaves a version behind, whoever takes it; a forced export says why; and a day is dropped
only with as many rows as the lake's revision of it has."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

KEY = ("dialed_on", "source", "call_ref", "leg")
TIMES = ("answered_at", "connected_at", "ended_at")
PLAIN = (
    *("call_time", "hold_time", "ring_time", "call_dir", "extension", "number", "dial_number", "campaign_ref"),
    *("contact_ref", "end_reason", "end_code", "recording_url", "uuid"),
)
VALUES = ("dialed_at", *TIMES, *PLAIN, "extra")
VERSION = (*KEY, *VALUES, "batch_id", "loaded_at")


def _row(of: str, columns: tuple[str, ...]) -> str:
    return f"({', '.join(f'{of}.{column}' for column in columns)})"


def _loses(column: str) -> str:
    """The new row lacks what the old one had, by the rules of etl/store/merge.py: to fill in a field, or the fraction
    of a second, loses nothing; nor does it to take the earlier second of two that the dialects tell."""
    lost = f"coalesce(OLD.{column}, NEW.{column}) IS DISTINCT FROM NEW.{column}"
    if column in ("dialed_at", *TIMES):
        lost += f" AND OLD.{column} IS DISTINCT FROM date_trunc('second', NEW.{column})"
    if column == "dialed_at":
        is_near = "NEW.dialed_at BETWEEN OLD.dialed_at - interval '10 s' AND OLD.dialed_at"
        # Not by many such steps out of the day, where no report would look for it.
        of_its_day = "NEW.dialed_at >= OLD.dialed_on::timestamp AT TIME ZONE 'UTC' - interval '10 s'"
        lost += f" AND NOT ({is_near} AND {of_its_day})"
    return f"({lost})"


# Of the key; but legs 0 and 1 are both the first one, which `unite_legs` goes by.
KEY_LOST = (
    "((OLD.source, OLD.call_ref) <> (NEW.source, NEW.call_ref)"
    " OR OLD.leg <> NEW.leg AND greatest(OLD.leg, NEW.leg) > 1)"
)
LOST = " OR ".join([KEY_LOST, *(_loses(column) for column in VALUES if column != "extra")])
# A field of `extra` that is null may get a value: that is looked at in the function, as a WHEN may not ask.
MAY_LOSE_EXTRA = (
    "(OLD.extra IS DISTINCT FROM NEW.extra AND OLD.extra IS NOT NULL"
    " AND coalesce(NEW.extra || OLD.extra <> NEW.extra, true))"
)
ONLY_ITS_CLAIM = (
    "((OLD.batch_id, OLD.loaded_at) <> (NEW.batch_id, NEW.loaded_at)"
    f" AND {_row('OLD', VALUES)} IS NOT DISTINCT FROM {_row('NEW', VALUES)})"
)

# With a change that only gains comes the claim that made it, which is now and no earlier one: else a row could be dated
# back, or made to win against every later claim. A claim's id begins with its time in ms; hosts' clocks differ.
AN_HOUR_FROM_NOW = "rpad(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint + 3600000), 12, '0'), 32, '0')::uuid"
NO_CLAIM_OF_NOW = (
    "(OLD.loaded_at <> NEW.loaded_at AND NEW.loaded_at <> now() OR OLD.batch_id <> NEW.batch_id"
    f" AND (NEW.batch_id < OLD.batch_id OR NEW.batch_id > {AN_HOUR_FROM_NOW}))"
)

# Its WHEN keeps rows that only gain from it. What a writer replaces it has kept in this very transaction, whole: then
# nothing is left to do. (By the row's contents, and not by who asks: a setting can be set by anybody. An erasure says
# so in a row of untraced_changes, which only leave_no_trace writes.) A later claim that the ledger knows may become a
# row's without changing it, now: so unite_legs does. One plan does for all rows, by the index: a loader's session would
# make another for each, which costs more than all that is merged.
KEEP_VERSION = f"""
CREATE FUNCTION {{schema}}.keep_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM {{schema}}.cdr_revisions r
    WHERE r.dialed_on = OLD.dialed_on AND r.source = OLD.source AND r.call_ref = OLD.call_ref AND r.leg = OLD.leg
    AND r.replaced_at = now() AND r.batch_id = OLD.batch_id
    AND {_row("r", ("loaded_at", *VALUES))} IS NOT DISTINCT FROM {_row("OLD", ("loaded_at", *VALUES))}
    LIMIT 1;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM {{schema}}.untraced_changes u
        WHERE u.transaction = pg_current_xact_id()::text::bigint AND u.began_at = now()
    ) THEN
        RETURN NULL;
    END IF;
    IF NOT ({LOST} OR {NO_CLAIM_OF_NOW}) AND coalesce(jsonb_typeof(OLD.extra) = 'object', true)
    AND NOT coalesce(NEW.extra || (
        SELECT jsonb_object_agg(key, value)
        FROM jsonb_each(CASE jsonb_typeof(OLD.extra) WHEN 'object' THEN OLD.extra END) WHERE value <> 'null'
    ) <> NEW.extra, NEW.extra IS NULL AND OLD.extra IS NOT NULL) THEN
        IF NOT {ONLY_ITS_CLAIM} OR NEW.loaded_at = now() AND (
            NEW.batch_id = OLD.batch_id OR NEW.batch_id > OLD.batch_id AND EXISTS (
                SELECT FROM {{schema}}.load_batches b WHERE b.batch_id = NEW.batch_id
            )
        ) THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO {{schema}}.cdr_revisions ({", ".join(VERSION)}) VALUES {_row("OLD", VERSION)};
    RETURN NULL;
END
$$
"""
# On the parent: partitions have it, and those to come get it.
TRIGGER = f"""
CREATE TRIGGER keep_version AFTER UPDATE ON cdrs FOR EACH ROW
WHEN ({LOST} OR {MAY_LOSE_EXTRA} OR {ONLY_ITS_CLAIM} OR {NO_CLAIM_OF_NOW})
EXECUTE FUNCTION {{schema}}.keep_version()
"""

LEAVE_NO_TRACE = """
CREATE FUNCTION {schema}.leave_no_trace(why text) RETURNS void
LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO {schema}.untraced_changes (transaction, began_at, role, why)
    VALUES (pg_current_xact_id()::text::bigint, now(), session_user, leave_no_trace.why)
    ON CONFLICT ON CONSTRAINT untraced_changes_pkey DO NOTHING
$$
"""

# As before; and the partition has as many rows as the revision. They are counted before anybody is kept out: what comes
# in between is in the ledger, which is asked afterwards.
DROP_DAY = """
CREATE OR REPLACE FUNCTION {schema}.drop_day(dataset text, day date, revision integer, sha256 text) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := format('%I.%I', {literal}, {schema}.partition_name(dataset, day));
    there bigint;
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
    EXECUTE format('SELECT count(*) FROM %s', partition) INTO there;
    -- In the order in which loaders take them. From then on nobody is in the day, and nobody gets in.
    EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE', {literal}, dataset);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', partition);
    UPDATE {schema}.exports AS proof SET dropped_at = now()
    WHERE (proof.dataset, proof.day, proof.revision, proof.sha256)
        = (drop_day.dataset, drop_day.day, drop_day.revision, drop_day.sha256)
    AND proof.published_at IS NOT NULL AND proof.dropped_at IS NULL AND proof.erased_at IS NULL
    AND proof.rows = there
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
    schema, literal = (
        op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())").one()
    )
    op.alter_column(
        "cdr_revisions",
        "replaced_by",
        nullable=True,
        comment="The claim whose CDR contradicted this version; null: no claim, but an UPDATE by hand",
    )
    because = "Why the day was exported again although the ledger knew of no change; null where there was no need"
    op.add_column("exports", sa.Column("because", sa.Text(), comment=because))
    op.create_table(
        "untraced_changes",
        sa.Column("transaction", sa.BigInteger(), nullable=False, comment="Its id (xid8)"),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False, comment="When the transaction began"),
        sa.Column("role", sa.Text(), nullable=False, comment="Who had logged in"),
        sa.Column("why", sa.Text(), nullable=False, comment="For what: an erasure"),
        sa.PrimaryKeyConstraint("transaction", "began_at"),
        comment="Transactions whose changes of CDRs leave no version behind; written by leave_no_trace alone",
    )
    functions = {
        "keep_version()": (
            KEEP_VERSION,
            "Keeps the version of a CDR that an UPDATE takes something out of, unless who did it has kept it",
        ),
        "leave_no_trace(text)": (
            LEAVE_NO_TRACE,
            "Until the transaction ends, what is taken out of CDRs is kept nowhere: an erasure. For the owner alone",
        ),
    }
    for signature, (body, comment) in functions.items():
        _execute(body.format(schema=schema))
        _execute(f"COMMENT ON FUNCTION {schema}.{signature} IS '{comment}'")
        _execute(f"REVOKE ALL ON FUNCTION {schema}.{signature} FROM PUBLIC")
    _execute(DROP_DAY.format(schema=schema, literal=literal))
    _execute(TRIGGER.format(schema=schema))


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
