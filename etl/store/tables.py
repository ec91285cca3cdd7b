"""Every table of the archive, with what each column is for. Migrations make them; the comments travel with them.

Times are `timestamptz`, days are UTC days, durations are whole seconds.
"""

from datetime import date
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    cast,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ck": "%(table_name)s_%(constraint_name)s",
        "uq": "%(table_name)s_key",
    }
)

# The schema of the tables through which a day comes back from the lake.
STAGING = "etl_staging"
# Who computes or rewrites figures does it alone, up to the end of the transaction. Of each of the three kinds there is
# the table that is written first: so a rollup of 0.1, which asks for another lock, waits here, too.
FIGURES_LOCK = text(
    "LOCK TABLE reporting.campaign_figures, reporting.status_changes, reporting.agent_state_figures"
    " IN SHARE ROW EXCLUSIVE MODE"
)
# Who loads does something alone, up to the end of the transaction, in a table that loaders may change, and few others.
# Nobody is kept from writing there: only from this, and from maintenance.
ONE_LOADER = text("LOCK TABLE ONLY listener_sessions IN SHARE UPDATE EXCLUSIVE MODE")

_NOW = text("now()")


def day_column(table: Table) -> Column[date]:
    """Of a partitioned table."""
    return next(iter(table.c))


def json_as_text(column: Column[Any]) -> ColumnElement[Any]:
    """A column to select, JSON as its text: Python's numbers aren't those of Postgres."""
    return cast(column, Text).label(column.name) if isinstance(column.type, JSONB) else column


def _time() -> DateTime:
    return DateTime(timezone=True)


def _cdr_columns() -> list[Column[object]]:
    """The columns that make up a CDR, in the order of `etl.wire.cdr.Cdr`; `cdrs` and `cdr_revisions` share them."""
    return [
        Column(
            "dialed_on",
            Date,
            nullable=False,
            comment="The UTC day under which the call was stored first: the partition. The dialects' times differ, so"
            " dialed_at may lie up to 10 s on the other side of midnight",
        ),
        Column("source", Text, nullable=False, comment="The system that reported the call: dialler or click2dial"),
        Column("call_ref", Text, nullable=False, comment="The call's own reference within its system"),
        Column(
            "leg",
            Integer,
            nullable=False,
            comment="Leg of a transferred call: 2 and more as the system counts; 0 is the first, whether the system"
            " says 1 or nothing",
        ),
        Column("dialed_at", _time(), nullable=False, comment="When the call was placed or came in"),
        Column("answered_at", _time(), comment="When the callee answered (dialect B)"),
        Column("connected_at", _time(), comment="When an agent was connected (dialect B)"),
        Column("ended_at", _time(), comment="When the call ended (dialect B)"),
        Column("call_time", Integer, comment="Seconds of talk; 0 when no agent was reached"),
        Column("hold_time", Integer, comment="Seconds on hold"),
        Column("ring_time", Integer, comment="Seconds of ringing"),
        Column("call_dir", Text, comment="outbound or inbound"),
        Column("extension", Text, comment="The agent; null if the callee hung up in the queue before reaching one"),
        Column("number", Text, comment="The client's number, dialled or calling; empty if withheld"),
        Column("dial_number", Text, comment="The dialler's own number"),
        Column("campaign_ref", Text, comment="Campaign; click-dial for Click2Dial, the client's number before its 3.0"),
        Column("contact_ref", Text, comment="The integrator's reference for the callee"),
        Column("end_reason", Text, comment="Disposition; raw dispositions of old systems are translated"),
        Column("end_code", Integer, comment="ISDN hang-up cause (Q.850)"),
        Column("recording_url", Text, comment="Where the recording lies"),
        Column("uuid", Text, comment="The dialler's own id of the call (dialect B)"),
        Column(
            "extra", JSONB(none_as_null=True), comment="Every field that has no column, as it was sent; null if none"
        ),
        Column("batch_id", Uuid, nullable=False, comment="The claim that wrote this version; see load_batches"),
        Column("loaded_at", _time(), nullable=False, server_default=_NOW, comment="When this version was written"),
    ]


cdrs = Table(
    "cdrs",
    metadata,
    *_cdr_columns(),
    PrimaryKeyConstraint("dialed_on", "source", "call_ref", "leg"),
    comment="Call detail records: one row per call attempt (and leg), both dialects merged, partitioned by day",
    postgresql_partition_by="RANGE (dialed_on)",
)
CDR_KEY = ("dialed_on", "source", "call_ref", "leg")

cdr_revisions = Table(
    "cdr_revisions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order of replacement"),
    *_cdr_columns(),
    Column(
        "replaced_by",
        Uuid,
        comment="The claim whose CDR contradicted this version; null: no claim, but an UPDATE by hand",
    ),
    Column("replaced_at", _time(), nullable=False, server_default=_NOW, comment="When it was replaced"),
    Index("cdr_revisions_cdr_idx", "dialed_on", "source", "call_ref", "leg"),
    comment="Superseded versions of CDRs: what was in cdrs before a contradicting CDR of the same call arrived",
)
cdr_revisions.c.loaded_at.server_default = None

untraced_changes = Table(
    "untraced_changes",
    metadata,
    Column("transaction", BigInteger, nullable=False, comment="Its id (xid8)"),
    Column("began_at", _time(), nullable=False, comment="When the transaction began"),
    Column("role", Text, nullable=False, comment="Who had logged in"),
    Column("why", Text, nullable=False, comment="For what: an erasure"),
    PrimaryKeyConstraint("transaction", "began_at"),
    comment="Transactions whose changes of CDRs leave no version behind; written by leave_no_trace alone",
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("captured_on", Date, nullable=False, comment="UTC day of captured_at; the partition"),
    Column("event_id", Uuid, nullable=False, comment="Given when the event was captured; the same on redelivery"),
    Column("captured_at", _time(), nullable=False, comment="When it was heard, or claimed if it lay on a list"),
    Column("origin", Text, nullable=False, comment="pubsub or list"),
    Column("channel", Text, nullable=False, comment="The channel or list it came on"),
    Column("kind", Text, nullable=False, comment="Type in the channel's name, plural: agents, campaigns, …"),
    Column("reference", Text, comment="The agent's extension or the campaign's reference"),
    Column("event_type", Text, nullable=False, comment="The envelope's type: status, call, stats, …"),
    Column("status", Text, comment="New status, of a status event"),
    Column("campaign_ref", Text, comment="Campaign"),
    Column("extension", Text, comment="Agent"),
    Column("call_ref", Text, comment="Call, of an agent connection or an inbound call"),
    Column("payload", JSONB, nullable=False, comment="The whole payload as it was sent"),
    Column("batch_id", Uuid, nullable=False, comment="The claim that wrote it; see load_batches"),
    PrimaryKeyConstraint("captured_on", "event_id"),
    CheckConstraint("origin IN ('pubsub', 'list')", name="origin_check"),
    comment="The audit trail: every event the dialler told, partitioned by day",
    postgresql_partition_by="RANGE (captured_on)",
)
EVENT_KEY = ("captured_on", "event_id")

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="For naming one"),
    Column("batch_id", Uuid, nullable=False, comment="The claim it came in; see load_batches"),
    Column("position", Integer, nullable=False, comment="Its place in the claim, from 0"),
    Column("source_key", Text, nullable=False, comment="List or channel it came on"),
    Column("reason", Text, nullable=False, comment="Stable code: not_json, missing_field, …"),
    Column("detail", Text, nullable=False, comment="What exactly was wrong"),
    Column("raw", LargeBinary, nullable=False, comment="The message, byte for byte"),
    Column("received_at", _time(), nullable=False, comment="When it was claimed"),
    Column("resolved_at", _time(), comment="When it was replayed or discarded; null while open"),
    Column("resolution", Text, comment="What became of it"),
    Column("server", Text, comment="The Redis server it came from, by its name; null: loaded by an etl before 0.2"),
    UniqueConstraint("batch_id", "position"),
    Index("dead_letters_open_idx", "received_at", postgresql_where=text("resolved_at IS NULL")),
    comment="Messages that could not be understood or stored, kept whole until somebody resolves them",
)

load_batches = Table(
    "load_batches",
    metadata,
    Column("batch_id", Uuid, primary_key=True, comment="The claim, a version 7 UUID"),
    Column("worker", Text, nullable=False, comment="Who loaded it"),
    Column("source_key", Text, nullable=False, comment="The Redis list it was taken from"),
    Column("claimed", Integer, nullable=False, comment="Messages in the claim"),
    Column("inserted", Integer, nullable=False, comment="CDRs that were new"),
    Column("updated", Integer, nullable=False, comment="CDRs that completed or replaced a stored one"),
    Column(
        "unchanged",
        Integer,
        nullable=False,
        comment="CDRs that said nothing new; events and dead letters of the list that an earlier claim had brought",
    ),
    Column("events", Integer, nullable=False, comment="Messages that were events"),
    Column("dead", Integer, nullable=False, comment="Messages that became dead letters"),
    Column("claimed_at", _time(), nullable=False, comment="When it was taken off the list"),
    Column("committed_at", _time(), nullable=False, server_default=_NOW, comment="Start of the committing transaction"),
    Column(
        "server",
        Text,
        comment="The Redis server it was taken from, by its name; empty: from none; null: by an etl before 0.2",
    ),
    Column(
        "set_aside", JSONB(none_as_null=True), comment="Values that were set aside in extra, counted by field; or null"
    ),
    Column(
        "may_repeat",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Not all of Redis' replicas had the claim when it was loaded: after a fail-over it may come again",
    ),
    CheckConstraint("claimed = inserted + updated + unchanged + events + dead", name="books_balance"),
    Index("load_batches_committed_idx", "committed_at"),
    Index("load_batches_nameless_idx", "committed_at", postgresql_where=text("server IS NULL")),
    Index("load_batches_may_repeat_idx", "committed_at", postgresql_where=text("may_repeat")),
    Index("load_batches_cdrs_idx", "committed_at", postgresql_where=text("inserted + updated + unchanged > 0")),
    comment="The ledger: one row per claim, committed together with the claim's rows, so a claim takes effect once",
)

list_identities = Table(
    "list_identities",
    metadata,
    Column(
        "identity",
        Uuid,
        primary_key=True,
        comment="Digest (SHA-256, shortened) of Redis server, list, running number in that list, and message",
    ),
    Column("batch_id", Uuid, nullable=False, comment="The claim that brought it first; see load_batches"),
    Column("claimed_at", _time(), nullable=False, comment="When that was"),
    Index("list_identities_claimed_idx", "claimed_at", postgresql_using="brin"),
    comment="Events and dead letters of lists, for 30 days: one that is claimed again after a fail-over of Redis is"
    " known by it. Not those of claims that an etl before 0.2 made or loaded",
)

load_batch_days = Table(
    "load_batch_days",
    metadata,
    Column("batch_id", Uuid, nullable=False, comment="The claim"),
    Column("dataset", Text, nullable=False, comment="Table: cdrs or audit_events"),
    Column("day", Date, nullable=False, comment="The partition's day"),
    Column("inserted", Integer, nullable=False, comment="Rows added to that day"),
    Column("updated", Integer, nullable=False, comment="Rows of that day changed"),
    PrimaryKeyConstraint("batch_id", "dataset", "day"),
    Index("load_batch_days_day_idx", "dataset", "day"),
    comment="What each claim did to each day: the books of a day, and whether it changed since it was exported",
)

counted_days = Table(
    "counted_days",
    metadata,
    Column("dataset", Text, nullable=False, comment="Table: cdrs or audit_events"),
    Column("day", Date, nullable=False, comment="The partition's day"),
    Column("entries", BigInteger, nullable=False, comment="Ledger entries (load_batch_days) of that day"),
    Column(
        "counted_until",
        _time(),
        nullable=False,
        comment="Claims that were committed before it are counted; of all days, up to the latest of them",
    ),
    Column("recounted_at", _time(), nullable=False, comment="When the whole ledger was counted last"),
    PrimaryKeyConstraint("dataset", "day"),
    comment="How many entries the ledger has of each day, but for the last hours: kept by ledger_entries",
)

PARTITIONED = {"cdrs": cdrs, "audit_events": audit_events}

# Sessions that are alike: of one server, and subscribed to the same.
_ALIKE = "hashtextextended(coalesce(server, ''), hash_array_extended(coalesce(patterns, '{}'::text[]), 0))"
_HEARD_UNTIL = "greatest(proven_until, subscribed_at)"
_NAMED = "server IS NOT NULL AND patterns IS NOT NULL"

listener_sessions = Table(
    "listener_sessions",
    metadata,
    Column("session_id", Uuid, primary_key=True, comment="Given by the listener, a version 7 UUID"),
    Column("listener", Text, nullable=False, comment="The worker that listened"),
    Column("subscribed_at", _time(), nullable=False, comment="When Redis had confirmed the subscription"),
    Column("proven_until", _time(), nullable=False, comment="When the last probe that came back was sent"),
    Column("received", BigInteger, nullable=False, comment="Messages heard, probes not counted"),
    Column("ignored", BigInteger, nullable=False, comment="Of these, dropped at the door as ETL_LISTEN_IGNORE says"),
    Column("dropped", BigInteger, nullable=False, comment="Of these, lost because the buffer was full"),
    Column("ended_at", _time(), comment="When it ended; null while it lasts, or if the listener was killed"),
    Column("reason", Text, comment="Why it ended: stopped, connection lost, probe lost, overflow or not permitted"),
    Column("batch_id", Uuid, nullable=False, comment="The claim that brought the last report; see load_batches"),
    Column("server", Text, comment="The Redis server that was listened to, by its name; null: by an etl before 0.2"),
    Column("patterns", ARRAY(Text), comment="The PubSub patterns it was subscribed to; null: by an etl before 0.2"),
    Index("listener_sessions_proven_idx", "proven_until"),
    # For reporting.gaps_between: see the migration.
    Index("listener_sessions_heard_idx", text(_ALIKE), text(_HEARD_UNTIL), postgresql_where=text(_NAMED)),
    Index("listener_sessions_began_idx", text(_ALIKE), "subscribed_at", postgresql_where=text(_NAMED)),
    Index(
        "listener_sessions_stretch_idx",
        text(f"tstzrange(subscribed_at, {_HEARD_UNTIL}, '[]')"),
        postgresql_using="gist",
        postgresql_where=text(_NAMED),
    ),
    Index("listener_sessions_nameless_idx", "session_id", postgresql_where=text(f"NOT ({_NAMED})")),
    comment="Stretches of time in which a listener was subscribed, and how far it's proven that it heard all",
)

retired_servers = Table(
    "retired_servers",
    metadata,
    Column("server", Text, nullable=False, comment="The Redis server, by its name"),
    Column(
        "retired_at",
        _time(),
        nullable=False,
        server_default=_NOW,
        comment="Until when what it was subscribed to before was expected to be heard",
    ),
    PrimaryKeyConstraint("server", "retired_at"),
    comment="Redis servers that are gone, or listened to for something else since: `etl gaps --retire`",
)

exports = Table(
    "exports",
    metadata,
    Column("dataset", Text, nullable=False, comment="Table: cdrs or audit_events"),
    Column("day", Date, nullable=False, comment="The partition's day"),
    Column("revision", Integer, nullable=False, comment="From 1; the day's latest is the one in the lake"),
    Column("rows", BigInteger, nullable=False, comment="Rows in the file"),
    Column("bytes", BigInteger, nullable=False, comment="Length of the file"),
    Column("sha256", Text, nullable=False, comment="Of the file's bytes, hexadecimal"),
    Column("schema_fingerprint", Text, nullable=False, comment="Of the columns' names and types, hexadecimal"),
    Column("first_time", _time(), comment="Earliest time of a row; null if there are none"),
    Column("last_time", _time(), comment="Latest time of a row; null if there are none"),
    Column("entries", Integer, nullable=False, comment="Ledger entries (load_batch_days) that the file contains"),
    Column("url", Text, nullable=False, comment="Where the lake was when it was published"),
    Column("exported_at", _time(), nullable=False, server_default=_NOW, comment="When it was written and read back"),
    Column("published_at", _time(), comment="When it was in its place; null if that was never confirmed"),
    Column("dropped_at", _time(), comment="When Postgres forgot the day, on the proof of this revision; null if not"),
    Column("release", Text, comment="Release of etl that wrote the revision; null: 0.1"),
    Column(
        "erased_at",
        _time(),
        comment="When its file had to go at once, as it may hold a person that was forgotten; null if not",
    ),
    Column(
        "entries_then",
        Integer,
        comment="Entries by the books that the file was exported under, if these took it over; null: they are the same",
    ),
    Column(
        "because",
        Text,
        comment="Why the day was exported again although the ledger knew of no change; null where there was no need",
    ),
    Column(
        "by_hand",
        Integer,
        comment="Versions of the day's CDRs that changes past the ledger had left by then; null: nobody counted them",
    ),
    PrimaryKeyConstraint("dataset", "day", "revision"),
    comment="The lake's books: one row per dataset, day and revision",
)

lake_drafts = Table(
    "lake_drafts",
    metadata,
    Column("name", Text, primary_key=True, comment="Under the lake's root"),
    Column("dataset", Text, nullable=False, comment="Table: cdrs or audit_events"),
    Column("day", Date, nullable=False, comment="The partition's day"),
    Column(
        "revision",
        Integer,
        comment="Number of a revision that was given up before it was published, and stays taken; null: never one",
    ),
    Column("worker", Text, nullable=False, comment="Who wrote"),
    Column("began_at", _time(), nullable=False, server_default=_NOW, comment="Since when"),
    comment="Files that somebody wrote into the lake, or was about to, and that no revision of the books is",
)

lake_table_files = Table(
    "lake_table_files",
    metadata,
    Column("name", Text, primary_key=True, comment="Under the lake's root"),
    Column("dataset", Text, nullable=False, comment="Table: cdrs or audit_events"),
    Column("began_at", _time(), nullable=False, server_default=_NOW, comment="When it was about to be written"),
    Column("committed_at", _time(), comment="When the Iceberg table's pointer moved with it; null if it never did"),
    Column("given_up_at", _time(), comment="From when on the pointer can't move with it any more; null if it can"),
    comment="Metadata files of the Iceberg tables, entered before they are written",
)

forgotten = Table(
    "forgotten",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order of requests"),
    Column("subject", Text, nullable=False, comment="What the person was asked for by: number or contact"),
    Column("hash", Text, nullable=False, comment="What stands in the place of that value now; the value is nowhere"),
    Column("worker", Text, nullable=False, comment="Who did it"),
    Column("began_at", _time(), nullable=False, server_default=_NOW, comment="When it began"),
    Column("completed_at", _time(), comment="When nothing was left of the person; null if it never came so far"),
    *(
        Column(
            name, BigInteger, nullable=False, server_default=text("0"), comment=f"Rows of {name} that were rewritten"
        )
        for name in ("cdrs", "cdr_revisions", "audit_events", "dead_letters")
    ),
    Column("files", BigInteger, nullable=False, server_default=text("0"), comment="Files of the lake written anew"),
    CheckConstraint("subject IN ('number', 'contact')", name="subject_check"),
    comment="People who were forgotten: the receipts, without a name in them",
)

united_days = Table(
    "united_days",
    metadata,
    Column("day", Date, primary_key=True, comment="UTC day of cdrs"),
    Column("united_at", _time(), nullable=False, comment="When it had no row of leg 1"),
    comment="Days on which every call's first leg is 0: what 0.1 stored as leg 1 has been united with it",
)

set_backs = Table(
    "set_backs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order of noticing"),
    Column("noticed_at", _time(), nullable=False, server_default=_NOW, comment="When it was noticed"),
    Column("source_key", Text, nullable=False, comment="Redis key of the list"),
    Column("server", Text, nullable=False, comment="Redis server of the list, by its name"),
    Column("first_claimed_at", _time(), nullable=False, comment="When the first of the claims was made"),
    Column("last_claimed_at", _time(), nullable=False, comment="When the last of the claims was made"),
    Column("recalled_claims", BigInteger, nullable=False, comment="Claims that were loaded again"),
    Column("recalled_messages", BigInteger, nullable=False, comment="Messages of these"),
    Column("lost_claims", BigInteger, nullable=False, comment="Claims that Redis didn't keep any more"),
    Column("lost_messages", BigInteger, nullable=False, comment="Messages of these"),
    Column("lost_from", _time(), comment="Last claim before the lost ones; null if none is lost"),
    Column("lost_until", _time(), comment="First claim after the lost ones; null if none is lost"),
    comment="Acknowledged claims that Postgres had forgotten, after a fail-over or a restored backup",
)

# A view: it isn't among the tables that migrations are compared with.
audit_gaps = Table(
    "audit_gaps",
    MetaData(),
    Column("gap_from", _time()),
    Column("gap_until", _time()),
    Column("reason", Text),
    Column("server", Text),
    Column("patterns", ARRAY(Text)),
)

# Iceberg's own: its JDBC catalog lays it out.
iceberg_tables = Table(
    "iceberg_tables",
    MetaData(schema="iceberg"),
    Column("catalog_name", Text, primary_key=True),
    Column("table_namespace", Text, primary_key=True),
    Column("table_name", Text, primary_key=True),
    Column("metadata_location", Text),
    Column("previous_metadata_location", Text),
)
