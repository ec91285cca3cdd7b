"""Is Postgres as the loader needs it, for `etl check`: what is asked, and what follows from the answers."""

import shutil
from collections.abc import Iterator

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.findings import Finding, RecallWindow, asked, clock, reachable
from etl.store import lock_table, preflight_line, preflight_rights, preflight_standbys, schema, server
from etl.store.blockers import Watchman
from etl.store.connection import Engine, rows
from etl.store.server import Server
from etl.text import size

SPACE_WRONG = 1 << 30  # bytes
SPACE_WARNING = 0.1  # of the disk
_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Etc/UCT", "Zulu")

# The functions of our own triggers.
_TRIGGER_FUNCTIONS = ("refuse_old_etl", "refuse_old_exports", "hold_back_proofs", "keep_version")
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


def findings(engine: Engine, window: RecallWindow, lake: Engine | None = None) -> Iterator[Finding]:
    """`lake` is who exports, prunes and restores, where that is a login of its own."""
    reached = reachable("Postgres", lambda: _server(engine), "ETL_DATABASE_URL")
    yield reached
    if reached.verdict == "wrong":
        return
    yield from asked("line to Postgres", lambda: [preflight_line.finding(engine)])
    if lake is not None:  # its URL has options of its own
        about = "Postgres of the lake"
        yield from asked(f"line to {about}", lambda: [preflight_line.finding(lake, about)])
    yield from asked("Postgres", lambda: _of_server(_server(engine)))
    yield from asked("Postgres standbys", lambda: preflight_standbys.findings(engine, window))
    yield from asked("Postgres locks", lambda: _locks(engine))
    yield from asked("Postgres schema", lambda: [_schema(engine)])
    yield from asked("Postgres partitions", lambda: [_partitions(engine)])
    yield from asked("Postgres triggers", lambda: [_triggers(engine)])
    yield from asked("Postgres rights", lambda: [*preflight_rights.of_logins(engine, lake)])
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
