"""What may be hostile to a session: every setting that a user may have, every variable that libpq reads, and whatever
others may have put under the names that the archive uses."""

from typing import Any

import psycopg
from psycopg import sql

# A server or role that takes no writes is meant so (a managed service sets it when its disk is full), and told as an
# outage; libraries must exist, or nobody gets in; and the others can be said of one transaction only.
LEFT_ALONE = (
    "default_transaction_read_only",
    "local_preload_libraries",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
)
# The others of type string take any text or none, and that of these is worth a thought.
_TEXTS = {
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kathmandu",
    "application_name": "something else",
    "search_path": "decoys, pg_catalog",
    "default_text_search_config": "pg_catalog.simple",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "timezone_abbreviations": "Australia",
}
_TIMEOUT_MS = 300
# The first value of the server's list is as hostile as any, but for these.
_CHOSEN = {"synchronous_commit": "off", "IntervalStyle": "sql_standard", "client_min_messages": "debug1"}
# Kept, as they say where the server is and who asks.
_WAYS = ("PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE", "PGSSL")
# libpq itself has no list of those that it turns into settings of the session.
_SETTINGS_OF_LIBPQ = {"PGDATESTYLE": "SQL, DMY", "PGTZ": "Asia/Kathmandu", "PGGEQO": "off"}
_HARMFUL = {
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c search_path=decoys -c bytea_output=escape -c statement_timeout=1 -c exit_on_error=on",
    "PGTARGETSESSIONATTRS": "standby",
    "PGHOSTADDR": "192.0.2.1",
    "PGAPPNAME": "something else",
    "PGCONNECT_TIMEOUT": "1",
}


def settings(connection: "psycopg.Connection[Any]") -> dict[str, str]:
    """Another value for each setting that this server's users may set."""
    found = connection.execute(
        "SELECT name, vartype, setting, min_val, max_val, enumvals FROM pg_settings WHERE context = 'user'"
    ).fetchall()
    hostile: dict[str, str] = {}
    for name, kind, value, least, most, words in found:
        if name in LEFT_ALONE:
            continue
        if kind == "bool":
            hostile[name] = "off" if value == "on" else "on"
        elif kind == "enum":
            hostile[name] = _CHOSEN.get(name) or next((word for word in words if word != value), value)
        elif kind == "string":
            if name in _TEXTS:
                hostile[name] = _TEXTS[name]
        elif name.endswith("_timeout"):
            hostile[name] = str(_TIMEOUT_MS)
        elif value != least:
            hostile[name] = least
        elif name in ("gin_fuzzy_search_limit", "cursor_tuple_fraction"):
            hostile[name] = "1"
        elif name == "extra_float_digits":
            hostile[name] = most
    return hostile


def environment() -> dict[str, str]:
    """Every variable that the driver's libpq reads and that isn't kept, with a value that does harm if it's heard."""
    of_libpq = [option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar]
    others = {name: "hostile" for name in of_libpq if not name.startswith(_WAYS)}
    return {**others, **_SETTINGS_OF_LIBPQ, **_HARMFUL}


def relations(connection: "psycopg.Connection[Any]", schema: str) -> list[str]:
    """Of the archive."""
    found = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND relnamespace = %s::regnamespace"
    return [name for (name,) in connection.execute(found, [schema])]


def make_tables(connection: "psycopg.Connection[Any]", names: list[str], where: str) -> None:
    """Others of the same names, each a TABLE in a schema or a TEMPORARY TABLE; even the version looks like ours."""
    for name in names:
        body = "(dialed_on date) PARTITION BY RANGE (dialed_on)" if name == "cdrs" else "(version_num text)"
        connection.execute(f"CREATE {where}{name} {body}".encode())
    schema = where.partition(" ")[2] if where.startswith("TABLE") else "pg_temp."
    connection.execute(f"INSERT INTO {schema}alembic_version VALUES ('0001')".encode())


def make_decoys(connection: "psycopg.Connection[Any]", archive: str, decoys: str) -> None:
    """In the schema `decoys`: a table for each relation of the archive's schema, and a function that does harm for each
    of its functions, and for each function and operator of Postgres that is worth it."""
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(decoys)))
    make_tables(connection, relations(connection, archive), f"TABLE {decoys}.")
    functions = connection.execute(
        "SELECT proname, pg_get_function_identity_arguments(oid), pg_get_function_result(oid) FROM pg_proc"
        " WHERE prokind = 'f' AND (pronamespace = %s::regnamespace OR pronamespace = 'pg_catalog'::regnamespace"
        " AND proname IN ('now', 'unnest', 'current_setting', 'set_config', 'to_regclass', 'date_trunc', 'to_char',"
        " 'pg_try_advisory_lock', 'pg_advisory_xact_lock', 'pg_advisory_unlock', 'clock_timestamp',"
        " 'pg_export_snapshot', 'has_table_privilege', 'array_position', 'current_schemas', 'current_schema'))",
        [archive],
    ).fetchall()
    for name, arguments, result in functions:
        if "anyarray" in arguments or "TABLE" in result or "VARIADIC" in arguments:
            continue
        connection.execute(
            f'CREATE FUNCTION "{decoys}"."{name}"({arguments}) RETURNS {result} LANGUAGE plpgsql AS'
            f" $$ BEGIN RAISE EXCEPTION 'a decoy was called: {name}'; END $$".encode()
        )
    for kind in ("text", "uuid", "date", "integer", "timestamptz", "name", "oid"):
        connection.execute(
            f'CREATE FUNCTION "{decoys}".never("{kind}", "{kind}") RETURNS boolean LANGUAGE plpgsql AS'
            " $$ BEGIN RAISE EXCEPTION 'a decoy was called: ='; END $$".replace(f'"{kind}"', kind).encode()
        )
        connection.execute(
            f'CREATE OPERATOR "{decoys}".= (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = "{decoys}".never)'.encode()
        )
