"""One call, one row: leg 1 is the first leg, which is 0. And what 0.1 may no longer do, now that rows can move: export,
prune and erase."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# In the order of `cdrs`. Of two versions of a row the newer one's values count, and where it has none the older one's.
KEY = ("dialed_on", "source", "call_ref", "leg")
TIMES = ("answered_at", "connected_at", "ended_at")
PLAIN = (
    *("call_time", "hold_time", "ring_time", "call_dir", "extension", "number", "dial_number", "campaign_ref"),
    *("contact_ref", "end_reason", "end_code", "recording_url", "uuid"),
)
VALUES = ("dialed_at", *TIMES, *PLAIN, "extra")


def _close(one: str, other: str) -> str:
    return f"({one} - {other} BETWEEN interval '-10 s' AND interval '10 s')"


def _whole(time: str) -> str:
    return f"date_trunc('second', {time})"


def _said(extra: str) -> str:
    return f"(SELECT jsonb_object_agg(key, value) FROM jsonb_each({extra}) WHERE value <> 'null'::jsonb)"


def _united(column: str) -> str:
    """What the column holds when `older` and `newer` have become one; the rules are those of etl/store/merge.py."""
    newer, older = f"(p.newer).{column}", f"(p.older).{column}"
    in_order = f"coalesce({newer}, {older})"
    if column == "dialed_at":
        return (
            f"CASE WHEN {newer} = {_whole(older)} THEN {older} WHEN {older} = {_whole(newer)} THEN {newer}"
            f" WHEN {_close(newer, older)} THEN least({newer}, {older}) ELSE {newer} END"
        )
    if column in TIMES:
        return f"CASE WHEN {newer} = {_whole(older)} THEN {older} ELSE {in_order} END"
    if column == "extra":
        fields = f"coalesce({newer} || {older}, {newer}, {older})"
        return f"{fields} || coalesce({_said(newer)}, '{{}}'::jsonb)"
    return in_order


def _contradict(column: str) -> str:
    newer, older = f"(p.newer).{column}", f"(p.older).{column}"
    if column == "dialed_at":
        conflict = f"NOT {_close(newer, older)}"
    elif column in TIMES:
        conflict = f"{newer} <> {older} AND {newer} <> {_whole(older)} AND {older} <> {_whole(newer)}"
    elif column == "extra":
        conflict = f"{_said(older)} || {_said(newer)} <> {_said(newer)} || {_said(older)}"
    else:
        conflict = f"{newer} <> {older}"
    return f"coalesce({conflict}, false)"


# The day's partition is %1$I.%2$I, the archive's schema %1$I. $1: the rows, by their places.
_REVISION = ", ".join(f"(p.older).{column}" for column in VALUES)
UNITE_TWINS = f"""
    WITH gone AS (
        DELETE FROM %1$I.%2$I c WHERE ctid = ANY ($1) AND EXISTS (
            SELECT FROM %1$I.%2$I z WHERE (z.source, z.call_ref, z.leg) = (c.source, c.call_ref, 0)
        )
        RETURNING c AS row
    ), pairs AS MATERIALIZED (
        SELECT z.ctid AS place,
            CASE WHEN z.batch_id < (g.row).batch_id THEN z ELSE g.row END AS older,
            CASE WHEN z.batch_id < (g.row).batch_id THEN g.row ELSE z END AS newer
        FROM gone g
        JOIN %1$I.%2$I z ON (z.source, z.call_ref, z.leg) = ((g.row).source, (g.row).call_ref, 0)
    ), kept AS (
        INSERT INTO %1$I.cdr_revisions
            ({", ".join(KEY)}, {", ".join(VALUES)}, batch_id, loaded_at, replaced_by)
        SELECT (p.older).dialed_on, (p.older).source, (p.older).call_ref, 0, {_REVISION}, (p.older).batch_id,
            (p.older).loaded_at, (p.newer).batch_id
        FROM pairs p
        WHERE {" OR ".join(map(_contradict, VALUES))}
    ), united AS (
        UPDATE %1$I.%2$I z
        SET {", ".join(f"{column} = {_united(column)}" for column in VALUES)},
            batch_id = (p.newer).batch_id, loaded_at = now()
        FROM pairs p WHERE z.ctid = p.place
        RETURNING 1
    )
    SELECT count(*) FROM united
"""

UNITE_LEGS = """
CREATE FUNCTION {schema}.unite_legs(
    day date, most integer, batch_id uuid, worker text, OUT renamed integer, OUT united integer
)
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := {schema}.partition_name('cdrs', day);
    places tid[];
BEGIN
    BEGIN
        PERFORM {schema}.lock_partition('cdrs', day);
    EXCEPTION WHEN undefined_table THEN  -- the day was dropped meanwhile
        renamed := 0;
        united := 0;
        RETURN;
    END;
    EXECUTE format('SELECT array(SELECT ctid FROM %1$I.%2$I WHERE leg = 1 LIMIT $1)', {literal}, partition)
        INTO places USING most;
    EXECUTE format($statement${unite_twins}$statement$, {literal}, partition) INTO united USING places;
    EXECUTE format('UPDATE %1$I.%2$I SET leg = 0 WHERE ctid = ANY ($1)', {literal}, partition) USING places;
    GET DIAGNOSTICS renamed = ROW_COUNT;
    UPDATE {schema}.cdr_revisions SET leg = 0 WHERE dialed_on = day AND leg = 1;
    IF renamed + united > 0 THEN
        INSERT INTO {schema}.load_batches
            (batch_id, worker, source_key, server, claimed, inserted, updated, unchanged, events, dead, claimed_at)
        VALUES (unite_legs.batch_id, unite_legs.worker, 'unite', '', 0, -united, united, 0, 0, 0, now());
        INSERT INTO {schema}.load_batch_days (batch_id, dataset, day, inserted, updated)
        VALUES (unite_legs.batch_id, 'cdrs', unite_legs.day, -united, renamed + united);
    END IF;
    IF renamed + united < most THEN
        INSERT INTO {schema}.united_days (day, united_at) VALUES (unite_legs.day, now())
        ON CONFLICT ON CONSTRAINT united_days_pkey DO UPDATE SET united_at = now();
    END IF;
END
$$
"""

# As forget_day of 0.1, whose name said something else.
DROP_DAY = """
CREATE FUNCTION {schema}.drop_day(dataset text, day date, revision integer, sha256 text) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := format('%I.%I', {literal}, {schema}.partition_name(dataset, day));
BEGIN
    -- In the order in which loaders take them. From then on nobody is in the day, and nobody gets in.
    EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE', {literal}, dataset);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', partition);
    UPDATE {schema}.exports AS proof SET dropped_at = now()
    WHERE (proof.dataset, proof.day, proof.revision, proof.sha256)
        = (drop_day.dataset, drop_day.day, drop_day.revision, drop_day.sha256)
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

TOO_OLD = "this etl is older than the archive, and may load but neither export nor prune nor erase: install a newer etl"
FORGET_DAY = f"""
CREATE OR REPLACE FUNCTION {{schema}}.forget_day(dataset text, day date, revision integer, sha256 text) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '{TOO_OLD}' USING ERRCODE = 'feature_not_supported';
END
$$
"""

# It keeps an old program from harm, not a person: who types SQL may do as before. An old program's sessions are called
# etl, unless its URL says otherwise, and don't say a release; its new rows of exports have none.
REFUSE_OLD_ETL = f"""
CREATE FUNCTION {{schema}}.refuse_old_etl() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('application_name') = 'etl' AND coalesce(current_setting('etl.release', true), '') = '' THEN
        RAISE EXCEPTION '{TOO_OLD}' USING ERRCODE = 'feature_not_supported';
    END IF;
    RETURN NULL;
END
$$
"""
REFUSE_OLD_EXPORTS = f"""
CREATE FUNCTION {{schema}}.refuse_old_exports() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '{TOO_OLD}' USING ERRCODE = 'feature_not_supported';
END
$$
"""
TRIGGERS = (
    "CREATE TRIGGER refuse_old_etl BEFORE INSERT OR UPDATE OR DELETE ON exports"
    " FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_old_etl()",
    "CREATE TRIGGER refuse_old_etl BEFORE INSERT OR UPDATE ON forgotten"
    " FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_old_etl()",
    "CREATE TRIGGER refuse_old_exports BEFORE INSERT ON exports"
    " FOR EACH ROW WHEN (NEW.release IS NULL) EXECUTE FUNCTION {schema}.refuse_old_exports()",
)

FUNCTIONS = {
    "unite_legs(date, integer, uuid, text)": (
        UNITE_LEGS,
        "Makes at most so many rows of a day with leg 1 the calls'' first leg, which is 0, and one row with those that"
        " lie there; enters it into the ledger; says how many were renamed, and how many went",
    ),
    "drop_day(text, date, integer, text)": (
        DROP_DAY,
        "Drops the partition of a day if this revision is the latest, is published and has all of the ledger;"
        " says whether it did",
    ),
    "forget_day(text, date, integer, text)": (FORGET_DAY, "Was drop_day in 0.1, whose prune it refuses"),
    "refuse_old_etl()": (REFUSE_OLD_ETL, "Keeps exports and erasures of 0.1 from the books"),
    "refuse_old_exports()": (REFUSE_OLD_EXPORTS, "Keeps exports of 0.1 from the books"),
}

COMMENTS = {
    "dialed_on": "The UTC day under which the call was stored first: the partition. The dialects'' times differ, so"
    " dialed_at may lie up to 10 s on the other side of midnight",
    "leg": "Leg of a transferred call: 2 and more as the system counts; 0 is the first, whether the system says 1 or"
    " nothing",
}


def upgrade() -> None:
    op.add_column(
        "exports", sa.Column("release", sa.Text(), comment="Release of etl that wrote the revision; null: 0.1")
    )
    op.create_table(
        "united_days",
        sa.Column("day", sa.Date(), nullable=False, comment="UTC day of cdrs"),
        sa.Column("united_at", sa.DateTime(timezone=True), nullable=False, comment="When it had no row of leg 1"),
        sa.PrimaryKeyConstraint("day"),
        comment="Days on which every call's first leg is 0: what 0.1 stored as leg 1 has been united with it",
    )
    # What a 0.1 goes on loading beside its successor.
    op.create_index(
        "load_batches_nameless_idx", "load_batches", ["committed_at"], postgresql_where=sa.text("server IS NULL")
    )
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    names = {"schema": schema, "literal": literal, "unite_twins": UNITE_TWINS}
    for signature, (body, comment) in FUNCTIONS.items():
        _execute(body.format(**names))
        _execute(f"COMMENT ON FUNCTION {schema}.{signature} IS '{comment}'")
        _execute(f"REVOKE ALL ON FUNCTION {schema}.{signature} FROM PUBLIC")
    for trigger in TRIGGERS:
        _execute(trigger.format(**names))
    for table in ("cdrs", "cdr_revisions"):
        for column, comment in COMMENTS.items():
            _execute(f"COMMENT ON COLUMN {table}.{column} IS '{comment}'")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
