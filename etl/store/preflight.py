"""Is Postgres as the loader needs it, for `etl check`: what is asked, and what follows from the answers."""

import shutil
from collections.abc import Iterator

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.findings import Finding, RecallWindow, asked, clock, reachable
from etl.store import lock_table, preflight_line, preflight_standbys, schema, server
from etl.store.blockers import Watchman
from etl.store.connection import Engine, rows
from etl.store.server import Server
from etl.store.tables import STAGING
from etl.text import size

SPACE_WRONG = 1 << 30  # bytes
SPACE_WARNING = 0.1  # of the disk
_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Etc/UCT", "Zulu")

# The rights on each table that loading, merging, exporting, loading a day back and computing figures take. A change
# here needs the same change in `ops/postgres/roles.sql`, which grants them.
_NEEDED = {
    "alembic_version": ("SELECT",),
    "cdrs": ("SELECT", "INSERT"),
    "cdr_revisions": ("SELECT", "INSERT"),
    "audit_events": ("SELECT", "INSERT", "UPDATE"),
    "audit_gaps": ("SELECT",),
    "dead_letters": ("SELECT", "INSERT"),
    "load_batches": ("SELECT", "INSERT"),
    "load_batch_days": ("SELECT", "INSERT"),
    "listener_sessions": ("SELECT", "INSERT", "UPDATE"),
    "united_days": ("SELECT",),
    "retired_servers": ("SELECT", "INSERT"),
    "exports": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "lake_drafts": ("SELECT", "INSERT", "DELETE"),
    "set_backs": ("SELECT", "INSERT"),
    **{
        f"reporting.{name}": ("SELECT",)
        for name in ("settings", "calls_unmasked", "calls", "events", "agent_states", "twins", "lake_days")
    },
    **{
        f"reporting.{name}": ("SELECT", "INSERT", "DELETE")
        for name in ("campaign_figures", "agent_call_figures", "agent_state_figures", "status_changes")
    },
    "reporting.rolled_up": ("SELECT", "INSERT", "UPDATE"),
}

# The functions of our own triggers.
_TRIGGER_FUNCTIONS = ("refuse_old_etl", "refuse_old_exports", "hold_back_proofs")
_TRIGGERS = sa.text(
    "SELECT t.tgname::text || ' on ' || t.tgrelid::regclass::text"
    " FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS f ON f.oid = t.tgfoid"
    " WHERE NOT t.tgisinternal AND t.tgparentid = 0"
    " AND c.relnamespace IN ((SELECT relnamespace FROM pg_class WHERE oid = to_regclass('cdrs')),"
    "  to_regnamespace('reporting'))"
    " AND NOT (f.pronamespace = c.relnamespace AND f.proname = ANY(:ours)) ORDER BY 1"
)
_DEFAULT_PARTITIONS = sa.text(
    "SELECT partrelid::regclass::text AS parent, partdefid::regclass::text AS name FROM pg_partitioned_table"
    " WHERE partdefid <> 0 AND partrelid IN (to_regclass('cdrs'), to_regclass('audit_events')) ORDER BY 1"
)
# A table that isn't there is the schema's fault.
_LACKING_ON_TABLES = sa.text(
    "SELECT privilege || ' on ' || name FROM unnest(cast(:names AS text[]), cast(:privileges AS text[]))"
    " WITH ORDINALITY AS needed (name, privilege, number)"
    " WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), privilege) ORDER BY number"
)
# Functions that act with the rights of the tables' owner; see the migrations.
_LACKING_ON_FUNCTIONS = sa.text(
    "SELECT 'EXECUTE on function ' || split_part(signature, '(', 1) FROM unnest(cast(:signatures AS text[]))"
    " WITH ORDINALITY AS needed (signature, number)"
    " WHERE NOT has_function_privilege(to_regprocedure(signature), 'EXECUTE') ORDER BY number"
)
_FUNCTIONS = (
    "make_partition(text, date)",
    "lock_partition(text, date)",
    "drop_day(text, date, integer, text)",
    "unite_legs(date, integer, uuid, text)",
    "ledger_entries()",
    "end_frozen(double precision)",
    "end_frozen_of_the_owner(double precision)",
    "reporting.index_contacts(date)",
    "reporting.gaps_between(timestamptz, timestamptz)",
)
_LACKING_ELSEWHERE = sa.text(
    "SELECT lacks FROM (VALUES"
    " (has_any_column_privilege(to_regclass('cdrs'), 'UPDATE'), 'UPDATE on cdrs'),"
    " (has_any_column_privilege(to_regclass('dead_letters'), 'UPDATE'), 'UPDATE on dead_letters'),"
    " (has_schema_privilege(to_regnamespace(:staging), 'USAGE'), 'USAGE on schema ' || :staging),"
    " (has_schema_privilege(to_regnamespace(:staging), 'CREATE'), 'CREATE on schema ' || :staging),"
    " (has_schema_privilege(to_regnamespace('reporting'), 'USAGE'), 'USAGE on schema reporting'),"
    " (has_database_privilege(current_database(), 'TEMPORARY'),"
    "  'TEMPORARY on database ' || quote_ident(current_database()))"
    ") AS rights (has, lacks) WHERE NOT has"
)


def findings(engine: Engine, window: RecallWindow) -> Iterator[Finding]:
    reached = reachable("Postgres", lambda: _server(engine), "ETL_DATABASE_URL")
    yield reached
    if reached.verdict == "wrong":
        return
    yield from asked("line to Postgres", lambda: [preflight_line.finding(engine)])
    yield from asked("Postgres", lambda: _of_server(_server(engine)))
    yield from asked("Postgres standbys", lambda: preflight_standbys.findings(engine, window))
    yield from asked("Postgres locks", lambda: _locks(engine))
    yield from asked("Postgres schema", lambda: [_schema(engine)])
    yield from asked("Postgres partitions", lambda: [_partitions(engine)])
    yield from asked("Postgres triggers", lambda: [_triggers(engine)])
    yield from asked("Postgres rights", lambda: [_rights(engine)])
    yield from asked("Postgres lock table", lambda: [lock_table.finding(engine)])
    yield from asked("Postgres disk", lambda: [_space(engine)])
    yield from asked("clock of Postgres", lambda: [clock("Postgres", lambda: _clock(engine))])


def _server(engine: Engine) -> Server:
    with engine.connect() as connection:
        return server.server(connection)


def _of_server(found: Server) -> list[Finding]:
    facts = {"version": found.version, "encoding": found.encoding, "role": "primary"}
    wrong = server.faults(found)
    of_each = [
        _with_way_out(f"Postgres {word}", wrong[word]) if word in wrong else Finding(f"Postgres {word}", "fine", fact)
        for word, fact in facts.items()
    ]
    return [*of_each, _time_zone(found)]


def _with_way_out(about: str, error: ConfigurationError) -> Finding:
    """Of an error that ends with it."""
    says, _, advice = error.text.rpartition(": ")
    return Finding(about, "wrong", says, advice, error.code)


def _time_zone(found: Server) -> Finding:
    if found.time_zone in _UTC:
        return Finding("Postgres time zone", "fine", found.time_zone)
    says = f"{found.time_zone}: days are UTC days, so dialed_at::date may differ from dialed_on in its sessions"
    return Finding("Postgres time zone", "warning", says, f"ALTER ROLE \"{found.me}\" SET timezone = 'UTC'")


def _locks(engine: Engine) -> list[Finding]:
    """Before the rest, which a lock may keep from its answer."""
    about = "Postgres locks"
    found = [Finding(about, "wrong", each.told(), each.way_out) for each in Watchman(engine).blockers()]
    return found or [Finding(about, "fine", "nobody keeps others out of our tables")]


def _schema(engine: Engine) -> Finding:
    about = "Postgres schema"
    try:
        has = schema.current(engine)
    except ConfigurationError as error:
        if error.code != "ETL-307":
            return _with_way_out(about, error)
        return Finding(about, "wrong", error.text, "see the rights below", error.code)
    try:
        schema.check(engine)
    except ConfigurationError as error:
        return _with_way_out(about, error)
    return Finding(about, "fine", f"{has}, as needed")


def _partitions(engine: Engine) -> Finding:
    about = "Postgres partitions"
    for parent, name in rows(engine, _DEFAULT_PARTITIONS):
        says = f"{parent} has a DEFAULT partition, {name}: it gets the rows of days whose own one isn't there, which"
        advice = f"ALTER TABLE {parent} DETACH PARTITION {name}, then load what is in it into the days' own partitions"
        return Finding(about, "wrong", f"{says} nobody exports, and keeps these from being made", advice)
    return Finding(about, "fine", "each is a day's")


def _triggers(engine: Engine) -> Finding:
    about = "Postgres triggers"
    with engine.connect() as connection:
        found = connection.scalars(_TRIGGERS, {"ours": [*_TRIGGER_FUNCTIONS]}).all()
    if found:
        says = f"not ours: {', '.join(found)}; they may change, refuse or hold up what is loaded or forgotten"
        return Finding(about, "warning", says, "see what they do, and whether a view or a job could do it instead")
    return Finding(about, "fine", "only ours")


def _rights(engine: Engine) -> Finding:
    about = "Postgres rights"
    me, lacks = _server(engine).me, _lacking(engine)
    if lacks:
        advice = f'GRANT them to "{me}", or let etl be the role etl_loader that ops/postgres/roles.sql makes'
        return Finding(about, "wrong", f"{me} lacks {', '.join(lacks)}", advice)
    return Finding(about, "fine", f"{me} may do all that loading and exporting take")


def _lacking(engine: Engine) -> list[str]:
    """The rights that are missing, as GRANT spells them."""
    with engine.connect() as connection:
        elsewhere = [*connection.scalars(_LACKING_ELSEWHERE, {"staging": STAGING})]
        # Without USAGE on a schema, Postgres refuses even the question about its tables.
        is_closed = "USAGE on schema reporting" in elsewhere

        def can_look(name: str) -> bool:
            return not (is_closed and name.startswith("reporting."))

        pairs = [(name, privilege) for name, needed in _NEEDED.items() if can_look(name) for privilege in needed]
        parameters = {"names": [name for name, _ in pairs], "privileges": [privilege for _, privilege in pairs]}
        return [
            *connection.scalars(_LACKING_ON_TABLES, parameters),
            *connection.scalars(_LACKING_ON_FUNCTIONS, {"signatures": [*filter(can_look, _FUNCTIONS)]}),
            *elsewhere,
        ]


def _space(engine: Engine) -> Finding:
    about, ask = "Postgres disk", "ask who runs it"
    elsewhere = Finding(about, "unknown", "the server is on another machine, or keeps its folder to itself", ask)
    try:
        with engine.connect() as connection:
            # Over a unix socket, which has no address: a port of this machine may lead into a container, or elsewhere.
            if connection.scalar(sa.text("SELECT inet_server_addr() IS NOT NULL")):
                return elsewhere
            folder = connection.scalar(sa.text("SELECT current_setting('data_directory')"))
            archive = int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
        disk = shutil.disk_usage(str(folder))
    except ConfigurationError:
        says = "this user may not know where the data lies"
        return Finding(about, "unknown", says, f"grant pg_read_all_settings to it, or {ask}")
    except OSError:
        return elsewhere
    says = f"{size(disk.free)} free of {size(disk.total)}; the archive has {size(archive)}"
    if disk.free < SPACE_WRONG:
        return Finding(about, "wrong", says, "make room, or let `etl prune` forget days that are in the lake")
    if disk.free < SPACE_WARNING * disk.total:
        return Finding(about, "warning", says, "make room soon; `etl prune` forgets days that are in the lake")
    return Finding(about, "fine", says)


def _clock(engine: Engine) -> float:
    """Unix time."""
    with engine.connect() as connection:
        return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")) or 0)
