"""What each login of Postgres and of Redis can and can't do, with whatever SQL or Lua an attacker types who has its
password: tried by tests/integration/test_logins.py, and told by the tables of docs/security.md, which are made of it:

    python -m tests.logins
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from etl.store.locks import DAY_LOCKS
from tests.lake import DAY
from tests.world import CAMPAIGNS

OWNER, KEEPER, LOADER, REPORTING = "etl_owner", "etl_keeper", "etl_loader", "etl_reporting"
ETL, DIALLER, DEFAULT = "etl", "dialler", "default"
DAY_NUMBER = (DAY - DAY.replace(2000, 1, 1)).days
HOLD = f"SELECT pg_advisory_lock({DAY_LOCKS['cdrs']}, {DAY_NUMBER})"
DROP = f"SELECT drop_day('cdrs', '{DAY}', revision, sha256) FROM exports WHERE dataset = 'cdrs' ORDER BY 1 DESC LIMIT 1"
FORGE = (
    "INSERT INTO exports (dataset, day, revision, rows, bytes, sha256, schema_fingerprint, entries, url, published_at,"
    f" release) SELECT 'cdrs', '{DAY}', 2, count(*), 1, 'x', 'x', (SELECT count(*) FROM load_batch_days WHERE dataset ="
    f" 'cdrs' AND day = '{DAY}'), 'x', now(), '0.2.0' FROM cdrs WHERE dialed_on = '{DAY}'"
)
ENTER = (
    "INSERT INTO load_batches (batch_id, worker, source_key, claimed, inserted, updated, unchanged, events, dead,"
    " claimed_at) VALUES (gen_random_uuid(), 'x', 'x', 0, 0, 0, 0, 0, 0, now())"
)
ADD = f"INSERT INTO cdrs (dialed_on, source, call_ref, leg, dialed_at, batch_id) VALUES ('{DAY}', 'x', 'x', 0, '{DAY}', gen_random_uuid())"  # noqa: E501
PARTITION = f"cdrs_{DAY:%Y%m%d}"


class Attempt(NamedTuple):
    """`how` in one transaction, or one command after the other; `who` may, and all others are refused."""

    what: str
    how: Sequence[Any]
    who: frozenset[str]


def _sql(what: str, *how: str, who: Sequence[str] = ()) -> Attempt:
    return Attempt(what, how, frozenset(who))


LOADING, LAKE, ALL = (OWNER, KEEPER, LOADER), (OWNER, KEEPER), (OWNER, KEEPER, LOADER, REPORTING)
POSTGRES = [
    _sql("read calls, with whole numbers", "SELECT number FROM cdrs", who=LOADING),
    _sql("ask a view of `reporting`", "SELECT number FROM reporting.calls", who=ALL),
    _sql("add a call", ADD, who=LOADING),
    _sql("change a call: the version before is kept", "UPDATE cdrs SET number = '0000'", who=LOADING),
    _sql(
        "change a call, and leave no trace", "SELECT leave_no_trace('x')", "UPDATE cdrs SET number = '0'", who=[OWNER]
    ),
    _sql("switch the trace off", "ALTER TABLE cdrs DISABLE TRIGGER keep_version", who=[OWNER]),
    _sql("change a call's key", "UPDATE cdrs SET call_ref = 'x' WHERE call_ref = '1'", who=[OWNER]),
    _sql("delete a call", "DELETE FROM cdrs", who=[OWNER]),
    _sql("change a call in its partition", f"UPDATE {PARTITION} SET number = '0000'", who=[OWNER]),
    _sql("change or delete a kept version", "UPDATE cdr_revisions SET number = ''", who=[OWNER]),
    _sql(
        "add an event",
        "INSERT INTO audit_events (captured_on, event_id, captured_at, origin, channel, kind, event_type, payload,"
        " batch_id) SELECT captured_on, gen_random_uuid(), captured_at, origin, channel, kind, event_type, payload,"
        " batch_id FROM audit_events",
        who=LOADING,
    ),
    _sql("change an event", "UPDATE audit_events SET payload = '{}'", who=LAKE),
    _sql("delete an event", "DELETE FROM audit_events", who=[OWNER]),
    _sql("read or resolve dead letters", "UPDATE dead_letters SET resolution = 'x'", who=[OWNER, LOADER]),
    _sql(
        "fill ahead a number that Postgres counts",
        "INSERT INTO cdr_revisions (id, dialed_on, source, call_ref, leg, dialed_at, batch_id, loaded_at, replaced_by)"
        " OVERRIDING SYSTEM VALUE SELECT 1000, dialed_on, source, call_ref, leg, dialed_at, batch_id, loaded_at,"
        " batch_id FROM cdrs LIMIT 1",
        who=[OWNER],
    ),
    _sql("change what a dead letter says", "UPDATE dead_letters SET raw = ''", who=[OWNER]),
    _sql("delete a dead letter", "DELETE FROM dead_letters", who=[OWNER]),
    _sql("add to the ledger", ENTER, who=LOADING),
    _sql("change the ledger", "UPDATE load_batches SET worker = 'x'", who=[OWNER]),
    _sql("delete from the ledger", "DELETE FROM load_batch_days", who=[OWNER]),
    _sql("change a listener's session", "UPDATE listener_sessions SET received = 0", who=[OWNER, LOADER]),
    _sql("read the lake's books", "SELECT * FROM exports", who=LOADING),
    _sql("enter a revision into the lake's books", FORGE, who=LAKE),
    _sql("change the lake's books", "UPDATE exports SET published_at = now()", who=LAKE),
    _sql("take a revision out of the lake's books", "DELETE FROM exports", who=LAKE),
    _sql(
        "name a file that the lake's sweep takes away",
        f"INSERT INTO lake_drafts (name, dataset, day, worker) VALUES ('x', 'cdrs', '{DAY}', 'x')",
        who=LAKE,
    ),
    _sql("read where the Iceberg tables are", "SELECT * FROM iceberg.iceberg_tables", who=ALL),
    _sql(
        "move the pointer of an Iceberg table",
        "UPDATE iceberg.iceberg_tables SET metadata_location = ''",
        who=LAKE,
    ),
    _sql(
        "name a metadata file of an Iceberg table, which the sweep takes away",
        "INSERT INTO lake_table_files (name, dataset) VALUES ('x', 'cdrs')",
        who=LAKE,
    ),
    _sql("drop a day that the lake has", HOLD, DROP, who=LAKE),
    _sql("drop a day on a forged revision", FORGE, HOLD, DROP, who=LAKE),
    _sql("drop a partition by hand", f"DROP TABLE {PARTITION}", who=[OWNER]),
    _sql("make a partition", "SELECT make_partition('cdrs', '2015-02-25')", who=LOADING),
    _sql(
        "make partitions without end",
        "SELECT make_partition('cdrs', current_date + n) FROM generate_series(4, 999, 99) AS n",
    ),
    _sql("make tables in `etl_staging`", "CREATE TABLE etl_staging.x (x int)", who=LAKE),
    _sql("make tables beside the archive's", "CREATE TABLE public.x (x int)", who=[OWNER]),
    _sql("make functions", "CREATE FUNCTION public.x() RETURNS int LANGUAGE sql AS 'SELECT 1'", who=[OWNER]),
    _sql("make temporary tables", "CREATE TEMPORARY TABLE x (x int)", who=LOADING),
    _sql("make a schema", "CREATE SCHEMA x", who=[OWNER]),
    _sql("change the kept figures", "DELETE FROM reporting.campaign_figures", who=[OWNER, LOADER]),
    _sql("read the secret of `number_key`", "SELECT key FROM reporting.secret", who=[OWNER]),
    _sql("change `reporting.settings`", "UPDATE reporting.settings SET zone = 'UTC'", who=[OWNER]),
    _sql("read names for people, those of numbers among them", "SELECT * FROM reporting.names", who=[OWNER, LOADER]),
    _sql(
        "name people",
        "INSERT INTO reporting.names (kind, reference, name) VALUES ('agent', '1002', 'Ada')",
        who=[OWNER],
    ),
    _sql("enter or complete an erasure", "UPDATE forgotten SET completed_at = now()", who=[OWNER]),
    _sql("end sessions of etl that froze a minute ago", "SELECT end_frozen_of_the_owner(-1)", who=[OWNER, LOADER]),
    *(_sql(f"become `{role}`", f"SET ROLE {role}", who=[role]) for role in (OWNER, KEEPER, LOADER)),
    _sql("make a role", "CREATE ROLE x"),
    _sql("read the passwords' hashes", "SELECT rolpassword FROM pg_authid"),
    _sql("run a program of the server", "COPY (SELECT 1) TO PROGRAM 'cat'"),
    _sql("read or write files of the server", "SELECT pg_read_file('postgresql.conf')"),
]

_LUA = "return redis.call('{}', KEYS[1], unpack(ARGV))"
_OTHERS = "crm:customers"


def _try(what: str, *command: Any, who: Sequence[str]) -> Attempt:
    return Attempt(what, command, frozenset(who))


class Lua(NamedTuple):
    """A script, loaded and called."""

    script: str
    key: str
    arguments: Sequence[str] = ()


REDIS = [
    _try("push to a source list", ("LPUSH", CAMPAIGNS, "x"), who=[ETL, DIALLER, DEFAULT]),
    _try("read a source list", ("LRANGE", CAMPAIGNS, 0, -1), who=[ETL, DEFAULT]),
    _try("take messages off a source list for good", ("LTRIM", CAMPAIGNS, 1, 0), who=[ETL, DEFAULT]),
    _try("delete a source list, a claim or what is kept of one", ("DEL", CAMPAIGNS), who=[ETL, DEFAULT]),
    _try("read claims, and what is kept of them", ("LRANGE", f"{{{CAMPAIGNS}}}:claim:x", 0, -1), who=[ETL, DEFAULT]),
    _try("forge a claim", ("LPUSH", f"{{{CAMPAIGNS}}}:claim:x", "x"), who=[ETL, DEFAULT]),
    _try("forge what the listener heard", ("LPUSH", "etl:events", "x"), who=[ETL, DEFAULT]),
    _try("read another application's keys", ("GET", _OTHERS), who=[DEFAULT]),
    _try("change another application's keys", ("SET", _OTHERS, "x"), who=[DEFAULT]),
    _try("delete another application's keys", ("DEL", _OTHERS), who=[DEFAULT]),
    _try("learn the names of all keys", ("SCAN", 0), who=[ETL, DEFAULT]),
    _try(
        "publish events as the dialler does",
        ("PUBLISH", "enigma:notifications:agents", "x"),
        who=[ETL, DIALLER, DEFAULT],
    ),
    _try("publish on other channels", ("PUBLISH", "crm:events", "x"), who=[DEFAULT]),
    _try("listen to the dialler's events", ("PSUBSCRIBE", "enigma:notifications:*"), who=[ETL, DEFAULT]),
    _try("listen to other channels", ("PSUBSCRIBE", "*"), who=[DEFAULT]),
    _try("run Lua on lists of its own", Lua(_LUA.format("LLEN"), CAMPAIGNS), who=[ETL, DEFAULT]),
    _try("run Lua on another application's keys", Lua(_LUA.format("GET"), _OTHERS), who=[DEFAULT]),
    _try(
        "the same, not naming them beforehand", Lua(f"return redis.call('GET', '{_OTHERS}')", CAMPAIGNS), who=[DEFAULT]
    ),
    _try("run a command in Lua that it may not run", Lua("return redis.call('FLUSHALL')", CAMPAIGNS), who=[DEFAULT]),
    _try("delete everything", ("FLUSHALL",), who=[DEFAULT]),
    _try("read settings", ("CONFIG", "GET", "*"), who=[DEFAULT]),
    _try("change settings", ("CONFIG", "SET", "maxmemory", "0"), who=[DEFAULT]),
    _try("change users and their rights", ("ACL", "SETUSER", "x"), who=[DEFAULT]),
    _try("see who is connected", ("CLIENT", "LIST"), who=[ETL, DEFAULT]),
    _try("disconnect others", ("CLIENT", "KILL", "ID", "999999"), who=[DEFAULT]),
    _try("have the server follow another", ("REPLICAOF", "NO", "ONE"), who=[DEFAULT]),
]

TABLES = {
    "Postgres": (POSTGRES, (OWNER, KEEPER, LOADER, REPORTING)),
    "Redis": (REDIS, (ETL, DIALLER, DEFAULT)),
}


def table(store: str) -> str:
    """As docs/security.md has it."""
    attempts, logins = TABLES[store]
    lines = [
        "| " + " | ".join(["can it …", *(f"`{login}`" for login in logins)]) + " |",
        "|---" * (len(logins) + 1) + "|",
        *("| " + " | ".join([a.what, *("yes" if each in a.who else "no" for each in logins)]) + " |" for a in attempts),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    for name in TABLES:
        print(table(name), end="\n\n")
