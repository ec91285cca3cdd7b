"""Is Postgres as the loader needs it, for `etl check`: what is asked, and what follows from the answers."""

import shutil
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, cast

import psycopg
import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.findings import Finding, Line, asked, clock, encryption, reachable
from etl.store import schema
from etl.store.connection import Engine
from etl.store.tables import STAGING
from etl.text import size

OLDEST_MAJOR = 14  # pg_inherits.inhdetachpending
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
    **{f"reporting.{name}": ("SELECT",) for name in ("settings", "calls_unmasked", "events", "agent_states", "twins")},
    **{
        f"reporting.{name}": ("SELECT", "INSERT", "DELETE")
        for name in ("campaign_figures", "agent_call_figures", "agent_state_figures", "status_changes")
    },
    "reporting.rolled_up": ("SELECT", "INSERT", "UPDATE"),
}

_SERVER = sa.text(
    "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,"
    " pg_is_in_recovery() AS is_standby, current_user::text AS me,"
    " (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone') AS time_zone"  # what others of this role get
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
    "end_frozen(double precision)",
    "end_frozen_of_the_owner(double precision)",
    "reporting.index_contacts(date)",
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


def findings(engine: Engine) -> Iterator[Finding]:
    reached = reachable("Postgres", lambda: _server(engine), "ETL_DATABASE_URL")
    yield reached
    if reached.verdict == "wrong":
        return
    yield from asked("line to Postgres", lambda: [encryption("Postgres", _line(engine), "ETL_DATABASE_CA_FILE")])
    yield from asked("Postgres", lambda: _of_server(_server(engine)))
    yield from asked("Postgres schema", lambda: [_schema(engine)])
    yield from asked("Postgres rights", lambda: [_rights(engine)])
    yield from asked("Postgres disk", lambda: [_space(engine)])
    yield from asked("clock of Postgres", lambda: [clock("Postgres", lambda: _clock(engine))])


def _server(engine: Engine) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(_SERVER).one()


def _line(engine: Engine) -> Line:
    with engine.connect() as connection:
        session = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        options = {option.keyword: option.val for option in session.pgconn.info}
        if session.pgconn.ssl_in_use:
            return "verified" if (options[b"sslmode"] or b"").startswith(b"verify") else "unverified"
        address = session.pgconn.hostaddr  # none, over a socket
        return "local" if not address or ip_address(address.decode()).is_loopback else "plain"


def _of_server(server: sa.Row[Any]) -> list[Finding]:
    return [_version(server), _role(server), _time_zone(server)]


def _version(server: sa.Row[Any]) -> Finding:
    if server.number // 10_000 < OLDEST_MAJOR:
        advice = f"upgrade it to {OLDEST_MAJOR} or newer"
        return Finding("Postgres version", "wrong", f"{server.version} is too old", advice)
    return Finding("Postgres version", "fine", server.version)


def _role(server: sa.Row[Any]) -> Finding:
    if server.is_standby:
        return Finding("Postgres role", "wrong", "this is a standby: it takes no writes", "name the primary")
    return Finding("Postgres role", "fine", "primary")


def _time_zone(server: sa.Row[Any]) -> Finding:
    if server.time_zone in _UTC:
        return Finding("Postgres time zone", "fine", server.time_zone)
    says = f"{server.time_zone}: days are UTC days, so dialed_at::date may differ from dialed_on in its sessions"
    return Finding("Postgres time zone", "warning", says, f"ALTER ROLE \"{server.me}\" SET timezone = 'UTC'")


def _schema(engine: Engine) -> Finding:
    about = "Postgres schema"
    try:
        has = schema.current(engine)
    except ConfigurationError as error:
        return Finding(about, "wrong", error.text, "see the rights below", error.code)
    try:
        schema.check(engine)
    except ConfigurationError as error:
        says, _, advice = error.text.rpartition(": ")  # it ends with the way out
        return Finding(about, "wrong", says, advice, error.code)
    return Finding(about, "fine", f"{has}, as needed")


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
