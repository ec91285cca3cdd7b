"""What Postgres says of itself, for `etl check`: facts, and no verdicts. Every function may raise `Outage` and
`ConfigurationError`.
"""

import shutil
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, cast

import psycopg
import sqlalchemy as sa

from etl.store.connection import Engine, translated
from etl.store.tables import STAGING

# What each table is for, as rights: loading, merging, exporting, loading a day back, and computing figures. Who changes
# something here changes it in `ops/postgres/roles.sql`, which grants them.
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
    **{f"reporting.{name}": ("SELECT",) for name in ("settings", "calls_unmasked", "events", "agent_states", "twins")},
    **{
        f"reporting.{name}": ("SELECT", "INSERT", "DELETE")
        for name in ("campaign_figures", "agent_call_figures", "agent_state_figures", "status_changes")
    },
    "reporting.rolled_up": ("SELECT", "INSERT", "UPDATE"),
}

_SERVER = sa.text(
    "SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),"
    " current_setting('TimeZone'), current_user::text"
)
# A table that isn't there is the schema's fault.
_LACKING_ON_TABLES = sa.text(
    "SELECT privilege || ' on ' || name FROM unnest(cast(:names AS text[]), cast(:privileges AS text[]))"
    " WITH ORDINALITY AS needed (name, privilege, number)"
    " WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), privilege) ORDER BY number"
)
# What only the tables' owner may do, it lends by these; see the migrations.
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


@dataclass(frozen=True, slots=True)
class Server:
    version: str
    number: int  # 180001 is 18.1
    is_standby: bool
    time_zone: str  # of this user's sessions
    user: str


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the disk under the data folder, and of the archive's database on it. Tablespaces aren't looked at."""

    free: int
    total: int
    database: int


def server(engine: Engine) -> Server:
    with translated(), engine.connect() as connection:
        return Server(*connection.execute(_SERVER).one())


def line(engine: Engine) -> Literal["verified", "unverified", "plain", "local"]:
    """How what is said to Postgres gets there: with TLS, verified or not; without; or within this machine."""
    with translated(), engine.connect() as connection:
        session = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        said = {option.keyword: option.val for option in session.pgconn.info}
        if session.pgconn.ssl_in_use:
            return "verified" if (said[b"sslmode"] or b"").startswith(b"verify") else "unverified"
        address = session.pgconn.hostaddr  # none, over a socket
        return "local" if not address or ip_address(address.decode()).is_loopback else "plain"


def clock(engine: Engine) -> float:
    """Unix time by the server's clock."""
    with translated(), engine.connect() as connection:
        return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")) or 0)


def lacking(engine: Engine) -> list[str]:
    """The rights that are missing, as GRANT spells them."""
    with translated(), engine.connect() as connection:
        elsewhere = [*connection.scalars(_LACKING_ELSEWHERE, {"staging": STAGING})]
        # In a schema that isn't open to us even looking is refused.
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


def space(engine: Engine) -> Space | None:
    """None if the server is on another machine. Raises `ConfigurationError` if this user may not know where its data
    lies."""
    with translated(), engine.connect() as connection:
        # Over a unix socket, which has no address: a port of this machine may lead into a container, or elsewhere.
        if connection.scalar(sa.text("SELECT inet_server_addr() IS NOT NULL")):
            return None
        folder = connection.scalar(sa.text("SELECT current_setting('data_directory')"))
        size = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    try:
        disk = shutil.disk_usage(str(folder))
    except OSError:
        return None
    return Space(disk.free, disk.total, int(size or 0))
