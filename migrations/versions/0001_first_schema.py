"""The first schema: CDRs and their revisions, audit events, dead letters, and the ledger."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("captured_on", sa.Date(), nullable=False, comment="UTC day of captured_at; the partition"),
        sa.Column(
            "event_id", sa.Uuid(), nullable=False, comment="Given when the event was captured; the same on redelivery"
        ),
        sa.Column(
            "captured_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it was heard, or claimed if it lay on a list",
        ),
        sa.Column("origin", sa.Text(), nullable=False, comment="pubsub or list"),
        sa.Column("channel", sa.Text(), nullable=False, comment="The channel or list it came on"),
        sa.Column(
            "kind", sa.Text(), nullable=False, comment="Type in the channel's name, plural: agents, campaigns, …"
        ),
        sa.Column("reference", sa.Text(), nullable=True, comment="The agent's extension or the campaign's reference"),
        sa.Column("event_type", sa.Text(), nullable=False, comment="The envelope's type: status, call, stats, …"),
        sa.Column("status", sa.Text(), nullable=True, comment="New status, of a status event"),
        sa.Column("campaign_ref", sa.Text(), nullable=True, comment="Campaign"),
        sa.Column("extension", sa.Text(), nullable=True, comment="Agent"),
        sa.Column("call_ref", sa.Text(), nullable=True, comment="Call, of an agent connection or an inbound call"),
        sa.Column("payload", JSONB, nullable=False, comment="The whole payload as it was sent"),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The claim that wrote it; see load_batches"),
        sa.CheckConstraint("origin IN ('pubsub', 'list')", name=op.f("audit_events_origin_check")),
        sa.PrimaryKeyConstraint("captured_on", "event_id", name=op.f("audit_events_pkey")),
        comment="The audit trail: every event the dialler told, partitioned by day",
        postgresql_partition_by="RANGE (captured_on)",
    )
    op.create_table(
        "cdr_revisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of replacement"),
        sa.Column("dialed_on", sa.Date(), nullable=False, comment="UTC day of dialed_at; the partition"),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="The system that reported the call: dialler or click2dial"
        ),
        sa.Column("call_ref", sa.Text(), nullable=False, comment="The call's own reference within its system"),
        sa.Column(
            "leg",
            sa.Integer(),
            nullable=False,
            comment="Leg of a transferred call, from 1; 0 if the system doesn't say",
        ),
        sa.Column(
            "dialed_at", sa.DateTime(timezone=True), nullable=False, comment="When the call was placed or came in"
        ),
        sa.Column(
            "answered_at", sa.DateTime(timezone=True), nullable=True, comment="When the callee answered (dialect B)"
        ),
        sa.Column(
            "connected_at", sa.DateTime(timezone=True), nullable=True, comment="When an agent was connected (dialect B)"
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="When the call ended (dialect B)"),
        sa.Column("call_time", sa.Integer(), nullable=True, comment="Seconds of talk; 0 when no agent was reached"),
        sa.Column("hold_time", sa.Integer(), nullable=True, comment="Seconds on hold"),
        sa.Column("ring_time", sa.Integer(), nullable=True, comment="Seconds of ringing"),
        sa.Column("call_dir", sa.Text(), nullable=True, comment="outbound or inbound"),
        sa.Column(
            "extension",
            sa.Text(),
            nullable=True,
            comment="The agent; null if the callee hung up in the queue before reaching one",
        ),
        sa.Column(
            "number", sa.Text(), nullable=True, comment="The client's number, dialled or calling; empty if withheld"
        ),
        sa.Column("dial_number", sa.Text(), nullable=True, comment="The dialler's own number"),
        sa.Column(
            "campaign_ref",
            sa.Text(),
            nullable=True,
            comment="Campaign; click-dial for Click2Dial, the client's number before its 3.0",
        ),
        sa.Column("contact_ref", sa.Text(), nullable=True, comment="The integrator's reference for the callee"),
        sa.Column(
            "end_reason",
            sa.Text(),
            nullable=True,
            comment="Disposition; raw dispositions of old systems are translated",
        ),
        sa.Column("end_code", sa.Integer(), nullable=True, comment="ISDN hang-up cause (Q.850)"),
        sa.Column("recording_url", sa.Text(), nullable=True, comment="Where the recording lies"),
        sa.Column("uuid", sa.Text(), nullable=True, comment="The dialler's own id of the call (dialect B)"),
        sa.Column(
            "extra",
            JSONB(none_as_null=True),
            nullable=True,
            comment="Every field that has no column, as it was sent; null if none",
        ),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The claim that wrote this version; see load_batches"),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False, comment="When this version was written"),
        sa.Column("replaced_by", sa.Uuid(), nullable=False, comment="The claim whose CDR contradicted this version"),
        sa.Column(
            "replaced_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was replaced",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("cdr_revisions_pkey")),
        comment="Superseded versions of CDRs: what was in cdrs before a contradicting CDR of the same call arrived",
    )
    op.create_index("cdr_revisions_cdr_idx", "cdr_revisions", ["dialed_on", "source", "call_ref", "leg"], unique=False)
    op.create_table(
        "cdrs",
        sa.Column("dialed_on", sa.Date(), nullable=False, comment="UTC day of dialed_at; the partition"),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="The system that reported the call: dialler or click2dial"
        ),
        sa.Column("call_ref", sa.Text(), nullable=False, comment="The call's own reference within its system"),
        sa.Column(
            "leg",
            sa.Integer(),
            nullable=False,
            comment="Leg of a transferred call, from 1; 0 if the system doesn't say",
        ),
        sa.Column(
            "dialed_at", sa.DateTime(timezone=True), nullable=False, comment="When the call was placed or came in"
        ),
        sa.Column(
            "answered_at", sa.DateTime(timezone=True), nullable=True, comment="When the callee answered (dialect B)"
        ),
        sa.Column(
            "connected_at", sa.DateTime(timezone=True), nullable=True, comment="When an agent was connected (dialect B)"
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="When the call ended (dialect B)"),
        sa.Column("call_time", sa.Integer(), nullable=True, comment="Seconds of talk; 0 when no agent was reached"),
        sa.Column("hold_time", sa.Integer(), nullable=True, comment="Seconds on hold"),
        sa.Column("ring_time", sa.Integer(), nullable=True, comment="Seconds of ringing"),
        sa.Column("call_dir", sa.Text(), nullable=True, comment="outbound or inbound"),
        sa.Column(
            "extension",
            sa.Text(),
            nullable=True,
            comment="The agent; null if the callee hung up in the queue before reaching one",
        ),
        sa.Column(
            "number", sa.Text(), nullable=True, comment="The client's number, dialled or calling; empty if withheld"
        ),
        sa.Column("dial_number", sa.Text(), nullable=True, comment="The dialler's own number"),
        sa.Column(
            "campaign_ref",
            sa.Text(),
            nullable=True,
            comment="Campaign; click-dial for Click2Dial, the client's number before its 3.0",
        ),
        sa.Column("contact_ref", sa.Text(), nullable=True, comment="The integrator's reference for the callee"),
        sa.Column(
            "end_reason",
            sa.Text(),
            nullable=True,
            comment="Disposition; raw dispositions of old systems are translated",
        ),
        sa.Column("end_code", sa.Integer(), nullable=True, comment="ISDN hang-up cause (Q.850)"),
        sa.Column("recording_url", sa.Text(), nullable=True, comment="Where the recording lies"),
        sa.Column("uuid", sa.Text(), nullable=True, comment="The dialler's own id of the call (dialect B)"),
        sa.Column(
            "extra",
            JSONB(none_as_null=True),
            nullable=True,
            comment="Every field that has no column, as it was sent; null if none",
        ),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The claim that wrote this version; see load_batches"),
        sa.Column(
            "loaded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When this version was written",
        ),
        sa.PrimaryKeyConstraint("dialed_on", "source", "call_ref", "leg", name=op.f("cdrs_pkey")),
        comment="Call detail records: one row per call attempt (and leg), both dialects merged, partitioned by day",
        postgresql_partition_by="RANGE (dialed_on)",
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="For naming one"),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The claim it came in; see load_batches"),
        sa.Column("position", sa.Integer(), nullable=False, comment="Its place in the claim, from 0"),
        sa.Column("source_key", sa.Text(), nullable=False, comment="List or channel it came on"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Stable code: not_json, missing_field, …"),
        sa.Column("detail", sa.Text(), nullable=False, comment="What exactly was wrong"),
        sa.Column("raw", sa.LargeBinary(), nullable=False, comment="The message, byte for byte"),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, comment="When it was claimed"),
        sa.Column(
            "resolved_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was replayed or discarded; null while open",
        ),
        sa.Column("resolution", sa.Text(), nullable=True, comment="What became of it"),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letters_pkey")),
        sa.UniqueConstraint("batch_id", "position", name=op.f("dead_letters_key")),
        comment="Messages that could not be understood or stored, kept whole until somebody resolves them",
    )
    op.create_index(
        "dead_letters_open_idx",
        "dead_letters",
        ["received_at"],
        unique=False,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "load_batch_days",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The claim"),
        sa.Column("dataset", sa.Text(), nullable=False, comment="Table: cdrs or audit_events"),
        sa.Column("day", sa.Date(), nullable=False, comment="The partition's day"),
        sa.Column("inserted", sa.Integer(), nullable=False, comment="Rows added to that day"),
        sa.Column("updated", sa.Integer(), nullable=False, comment="Rows of that day changed"),
        sa.PrimaryKeyConstraint("batch_id", "dataset", "day", name=op.f("load_batch_days_pkey")),
        comment="What each claim did to each day: the books of a day, and whether it changed since it was exported",
    )
    op.create_index("load_batch_days_day_idx", "load_batch_days", ["dataset", "day"], unique=False)
    op.create_table(
        "load_batches",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The claim, a version 7 UUID"),
        sa.Column("worker", sa.Text(), nullable=False, comment="Who loaded it"),
        sa.Column("source_key", sa.Text(), nullable=False, comment="The Redis list it was taken from"),
        sa.Column("claimed", sa.Integer(), nullable=False, comment="Messages in the claim"),
        sa.Column("inserted", sa.Integer(), nullable=False, comment="CDRs that were new"),
        sa.Column("updated", sa.Integer(), nullable=False, comment="CDRs that completed or replaced a stored one"),
        sa.Column("unchanged", sa.Integer(), nullable=False, comment="CDRs that said nothing new"),
        sa.Column("events", sa.Integer(), nullable=False, comment="Messages that were events"),
        sa.Column("dead", sa.Integer(), nullable=False, comment="Messages that became dead letters"),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, comment="When it was taken off the list"),
        sa.Column(
            "committed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Start of the committing transaction",
        ),
        sa.CheckConstraint(
            "claimed = inserted + updated + unchanged + events + dead", name=op.f("load_batches_books_balance")
        ),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("load_batches_pkey")),
        comment="The ledger: one row per claim, committed together with the claim's rows, so a claim takes effect once",
    )
    op.create_index("load_batches_committed_idx", "load_batches", ["committed_at"], unique=False)


def downgrade() -> None:

    op.drop_index("load_batches_committed_idx", table_name="load_batches")
    op.drop_table("load_batches")
    op.drop_index("load_batch_days_day_idx", table_name="load_batch_days")
    op.drop_table("load_batch_days")
    op.drop_index("dead_letters_open_idx", table_name="dead_letters", postgresql_where=sa.text("resolved_at IS NULL"))
    op.drop_table("dead_letters")
    op.drop_table("cdrs")
    op.drop_index("cdr_revisions_cdr_idx", table_name="cdr_revisions")
    op.drop_table("cdr_revisions")
    op.drop_table("audit_events")
