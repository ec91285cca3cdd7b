"""What every session of every driver depends on, set by the session itself right after it connected: no role, database,
server or environment has a say in what is stored and read.

Here are statements and names only; `etl.store.connection` and `etl.lake.postgres` send them, each by its driver.
"""

from collections.abc import Mapping, MutableMapping

# Whoever lends a snapshot or holds a lock may do so for as long as a day takes: no timeout ends it. A server that has
# gone is found by `tcp_user_timeout`, and who is frozen while loaders wait is ended by them.
PATIENT: Mapping[str, str] = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
# Who loads holds others up if it is stuck. The longest statement of the largest claim (32 MiB) takes seconds, and each
# partition is a transaction of its own: there is no claim that these could end on a server that works. What they end is
# an outage, and done again. An idle session is one of a quiet list; and the length of a claim's whole transaction
# depends on how many statements it needs, so neither has a limit.
LOADING: Mapping[str, str] = {
    **PATIENT,
    "statement_timeout": "600s",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "300s",
}

_PINNED: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "xmlbinary": "base64",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # A claim's rows are tried in savepoints: an error of one is no end of the session.
    "exit_on_error": "off",
    # libpq prints what comes to stderr, between our log lines.
    "client_min_messages": "warning",
    # If somebody puts a policy on our tables, an error, not a day without the rows that it hides.
    "row_security": "off",
    "restrict_nonsystem_relation_kind": "",
    # Without these a query of one day locks every partition that there is.
    "enable_partition_pruning": "on",
    "constraint_exclusion": "partition",
    # A generic plan has no dates in it: just to make one, after a few executions, Postgres locks every partition.
    "plan_cache_mode": "force_custom_plan",
    # Before 18 what avoids a way of joining seems dear enough to be compiled, which takes a second and more each time.
    "jit": "off",
}

# Settings of ours in the session: where its role would look for tables, and what the database knows releases by.
_PATH = "etl.search_path"
# Nothing is looked for where others may have put something of the same name, from here on.
_SAVE_PATH = f"SELECT pg_catalog.set_config('{_PATH}', pg_catalog.current_schemas(false)::pg_catalog.text, false)"
_TRUST_NOBODY = "SET search_path = pg_catalog, pg_temp"
# The archive is where `alembic_version` is beside `cdrs`. Others may have made tables of these names: the views of
# `reporting` know whose is the archive's. A database without an archive gets it where its role would make any table.
_FIND_SCHEMA = f"""
WITH role AS (SELECT current_setting('{_PATH}')::name[] AS path),
archive AS (
    SELECT n.nspname AS name
    FROM role, pg_class v
    JOIN pg_namespace n ON n.oid = v.relnamespace
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'cdrs' AND c.relkind = 'p'
    WHERE v.relname = 'alembic_version' AND v.relkind = 'r'
    ORDER BY EXISTS (
        SELECT FROM pg_depend d
        JOIN pg_rewrite r ON r.oid = d.objid
        JOIN pg_class w ON w.oid = r.ev_class
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
        AND w.relnamespace = to_regnamespace('reporting')
    ) DESC, array_position(role.path, n.nspname), n.nspname
    LIMIT 1
)
SELECT set_config(
    'search_path', coalesce(format('%I, pg_temp', coalesce((SELECT name FROM archive), path[1])), ''), false
) FROM role
"""  # noqa: S608  (words of our own)

# Of the variables that libpq reads: where Postgres is, who asks, and what they prove to each other.
_KEPT = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE")
_KEPT_BEGIN = ("PGSSL", "PGSYSCONFDIR")


def pinning(timeouts: Mapping[str, str]) -> tuple[str, ...]:
    """The statements that pin a session, in their order, without parameters. After connecting: poolers refuse options
    on the way in. Older servers skip what they lack."""
    values = ", ".join(f"('{name}', '{value}')" for name, value in {**_PINNED, **timeouts}.items())
    pin = (
        f"SELECT set_config(name, value, false) FROM (VALUES {values}) AS pinned (name, value)"  # noqa: S608
        " WHERE current_setting(name, true) IS NOT NULL"
    )
    return _SAVE_PATH, _TRUST_NOBODY, pin, _FIND_SCHEMA


def forget_environment(environ: MutableMapping[str, str]) -> None:
    """Take out of it what libpq reads, but for what says where Postgres is and who asks: libpq sends the rest on as
    options of the session, which poolers refuse, or connects to another server than the URL's."""
    for name in [*environ]:
        if name.startswith("PG") and name not in _KEPT and not name.startswith(_KEPT_BEGIN):
            environ.pop(name, None)
