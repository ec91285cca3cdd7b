"""May each login of Postgres do what is its own to do, and no more? For `etl check`: what is asked, and what follows.

A small installation has one login for all. Where `ops/postgres/roles.sql` made several, the loader may read the lake's
books and not change them: whoever takes it over can neither forge a revision nor let a day go.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from etl.errors import EtlError
from etl.findings import Finding, unreachable
from etl.store import history
from etl.store.connection import Engine, rows
from etl.store.tables import CDR_KEY, STAGING, metadata

LOADER, KEEPER = "etl_loader", "etl_keeper"
OF_THE_LAKE = "Postgres rights of the lake"
UNNEEDED = "Postgres rights unneeded"


@dataclass(frozen=True, slots=True)
class Duty:
    """What a login has to do, and the rights that it takes: on tables, on columns (any will do, of those that are
    neither the key nor counted by Postgres), on functions and on schemas. A change here needs the same change in
    `ops/postgres/roles.sql`."""

    what: str
    tables: Mapping[str, Sequence[str]]
    columns: Mapping[str, Sequence[str]]
    functions: Sequence[str]
    schemas: Mapping[str, Sequence[str]]


LOADING = Duty(
    "loading",
    {
        "alembic_version": ("SELECT",),
        "cdrs": ("SELECT", "INSERT"),
        "cdr_revisions": ("SELECT",),
        "audit_events": ("SELECT", "INSERT"),
        "audit_gaps": ("SELECT",),
        "dead_letters": ("SELECT",),
        "load_batches": ("SELECT", "INSERT"),
        "load_batch_days": ("SELECT", "INSERT"),
        "listener_sessions": ("SELECT", "INSERT", "UPDATE"),
        "united_days": ("SELECT",),
        "retired_servers": ("SELECT", "INSERT"),
        "forgotten": ("SELECT",),
        "exports": ("SELECT",),
        "set_backs": ("SELECT",),
        "list_identities": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        **{
            f"reporting.{name}": ("SELECT",)
            for name in (
                "settings",
                "calls_unmasked",
                "calls",
                "events",
                "agent_states",
                "twins",
                "lake_days",
                "names_masked",
            )
        },
        **{
            f"reporting.{name}": ("SELECT", "INSERT", "DELETE")
            for name in (
                "campaign_figures",
                "agent_call_figures",
                "agent_state_figures",
                "status_changes",
                "preview_figures",
            )
        },
        "reporting.rolled_up": ("SELECT", "INSERT", "UPDATE"),
    },
    {
        "cdrs": ("UPDATE",),
        "cdr_revisions": ("INSERT",),
        "dead_letters": ("INSERT", "UPDATE"),
        "set_backs": ("INSERT",),
    },
    (
        "make_partition(text, date)",
        "unite_legs(date, integer, uuid, text)",
        "ledger_entries()",
        "end_frozen(double precision)",
        "end_frozen_of_the_owner(double precision)",
        "reporting.index_contacts(date)",
        "reporting.twins_counted(date)",
        "reporting.gaps_between(timestamptz, timestamptz)",
    ),
    {"reporting": ("USAGE",)},
)
KEEPING = Duty(
    "exporting",
    {
        "alembic_version": ("SELECT",),
        "cdrs": ("SELECT", "INSERT"),
        "cdr_revisions": ("SELECT",),
        "audit_events": ("SELECT", "INSERT"),
        "load_batches": ("SELECT", "INSERT"),
        "load_batch_days": ("SELECT", "INSERT"),
        "united_days": ("SELECT",),
        "forgotten": ("SELECT",),
        "exports": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "lake_drafts": ("SELECT", "INSERT", "DELETE"),
        "lake_table_files": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "iceberg.iceberg_tables": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "iceberg.iceberg_namespace_properties": ("SELECT",),
        "list_identities": ("SELECT", "DELETE"),
        **{f"reporting.{name}": ("SELECT",) for name in ("settings", "calls", "twins", "lake_days")},
    },
    {"cdrs": ("UPDATE",), "cdr_revisions": ("INSERT",), "audit_events": ("UPDATE",)},
    (
        "make_partition(text, date)",
        "lock_partition(text, date)",
        "drop_day(text, date, integer, text)",
        "unite_legs(date, integer, uuid, text)",
    ),
    {STAGING: ("USAGE", "CREATE"), "reporting": ("USAGE",), "iceberg": ("USAGE",)},
)

# What isn't there is the schema's fault.
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
_LACKING_ON_COLUMNS = sa.text(
    "SELECT privilege || ' on ' || name FROM unnest(cast(:names AS text[]), cast(:privileges AS text[]))"
    " WITH ORDINALITY AS needed (name, privilege, number)"
    " WHERE NOT has_any_column_privilege(to_regclass(name), privilege) ORDER BY number"
)
_LACKING_ON_SCHEMAS = sa.text(
    "SELECT privilege || ' on schema ' || name FROM unnest(cast(:names AS text[]), cast(:privileges AS text[]))"
    " WITH ORDINALITY AS needed (name, privilege, number)"
    " WHERE NOT has_schema_privilege(to_regnamespace(name), privilege) ORDER BY number"
)
_LACKING_TEMPORARY = sa.text(
    "SELECT 'TEMPORARY on database ' || quote_ident(current_database())"
    " WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')"
)
# The tables' owner, and who may become it, may do anything: then there is nothing to say.
_UNNEEDED = sa.text(
    "SELECT has FROM pg_class c CROSS JOIN LATERAL ("
    " SELECT 'UPDATE (' || name || ') on cdrs', 1 FROM unnest(cast(:key AS text[])) AS name"
    "  WHERE has_column_privilege(to_regclass('cdrs'), name, 'UPDATE')"
    " UNION ALL SELECT privilege || ' on ' || name, 2"
    "  FROM (VALUES ('exports'), ('lake_drafts'), ('lake_table_files')) AS books (name),"
    "  (VALUES ('INSERT'), ('UPDATE'), ('DELETE')) AS rights (privilege)"
    "  WHERE :aside AND has_table_privilege(to_regclass(name), privilege)"
    " UNION ALL SELECT 'EXECUTE on function drop_day', 3"
    "  WHERE :aside AND has_function_privilege(to_regprocedure('drop_day(text, date, integer, text)'), 'EXECUTE')"
    " UNION ALL SELECT 'CREATE on schema ' || :staging, 4"
    "  WHERE :aside AND has_schema_privilege(to_regnamespace(:staging), 'CREATE')"
    " UNION ALL SELECT 'UPDATE on audit_events', 5"
    "  WHERE :aside AND has_any_column_privilege(to_regclass('audit_events'), 'UPDATE')"
    " UNION ALL SELECT 'INSERT (id) on ' || name, 6 FROM unnest(cast(:counted AS text[])) AS name"
    "  WHERE has_column_privilege(to_regclass(name), 'id', 'INSERT')"
    ") AS found (has, number) WHERE c.oid = to_regclass('exports') AND NOT pg_has_role(c.relowner, 'MEMBER')"
    " ORDER BY number, has"
)
# Whoever fills their ids ahead keeps all rows out that are to come.
_COUNTED = [table.name for table in metadata.sorted_tables if "id" in table.c and table.c.id.identity is not None]
_ME = sa.text("SELECT current_user::text")
_AMONG = sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles) AND pg_has_role(oid, 'USAGE')")
_HISTORY = sa.text(f"SELECT {history.COLUMNS}")


def of_logins(engine: Engine, lake: Engine | None) -> Iterator[Finding]:
    """`lake` is the login for exports, prunes and restores, if there is one; else they are `engine`'s, too."""
    yield _of_the_loader(engine, lake is not None)
    yield _unneeded(engine, lake is not None)
    if lake is not None:
        yield _of_the_keeper(engine, lake)


def _of_the_loader(engine: Engine, aside: bool) -> Finding:
    about, me = "Postgres rights", _me(engine)
    duties = (LOADING,) if aside else (LOADING, KEEPING)
    if lacks := _lacking(engine, *duties):
        of_loading, keeper = _lacking(engine, LOADING), f"{KEEPER} in ETL_LAKE_DATABASE_URL"
        advice = _advice(engine, LOADER, "ETL_DATABASE_URL")
        if not of_loading:
            advice = f"name {KEEPER}, who exports, prunes and restores, in ETL_LAKE_DATABASE_URL"
        elif {*lacks} != {*of_loading}:
            advice = f"{advice}, and name {keeper}"
        return Finding(about, "wrong", f"{me} lacks {', '.join(lacks)}", advice)
    return Finding(about, "fine", f"{me} may do all that {' and '.join(duty.what for duty in duties)} take")


def _unneeded(engine: Engine, aside: bool) -> Finding:
    found = rows(engine, _UNNEEDED, {"key": [*CDR_KEY], "aside": aside, "staging": STAGING, "counted": _COUNTED})
    if not found:
        return Finding(UNNEEDED, "fine", "none, or this login is the owner's")
    me = _me(engine)
    says = f"{me} may do more than it has to: {', '.join(has for (has,) in found)}"
    advice = _advice(engine, LOADER, "ETL_DATABASE_URL")
    if aside and me != KEEPER and KEEPER in _among(engine):  # the file takes no membership away
        advice = f"REVOKE from {me} what makes it a member of {KEEPER}, and {advice}"
    return Finding(UNNEEDED, "warning", says, advice)


def _of_the_keeper(engine: Engine, lake: Engine) -> Finding:
    try:
        me, lacks = _me(lake), _lacking(lake, KEEPING)
        is_another = rows(lake, _HISTORY) != rows(engine, _HISTORY)
    except EtlError as error:
        return unreachable(OF_THE_LAKE, error, "ETL_LAKE_DATABASE_URL")
    if is_another:
        advice = "let ETL_LAKE_DATABASE_URL differ from ETL_DATABASE_URL in the login alone"
        return Finding(OF_THE_LAKE, "wrong", "the two logins lead to different databases", advice)
    if lacks:
        advice = _advice(lake, KEEPER, "ETL_LAKE_DATABASE_URL")
        return Finding(OF_THE_LAKE, "wrong", f"{me} lacks {', '.join(lacks)}", advice)
    return Finding(OF_THE_LAKE, "fine", f"{me} may do all that exporting, pruning and restoring take")


def _advice(engine: Engine, role: str, setting: str) -> str:
    """Who lacks rights gets them as this role, by the file; never by a GRANT to whoever it is, which might give the
    loader what the keeper has so that the loader hasn't."""
    if role in _among(engine):
        return "run ops/postgres/roles.sql as it is in this release"
    return f"name {role}, which ops/postgres/roles.sql makes, in {setting}"


def _among(engine: Engine) -> set[str]:
    """Whose rights this login has, being the role itself or a member."""
    return {str(role) for (role,) in rows(engine, _AMONG, {"roles": [LOADER, KEEPER]})}


def _me(engine: Engine) -> str:
    ((me,),) = rows(engine, _ME)
    return str(me)


def _lacking(engine: Engine, *duties: Duty) -> list[str]:
    """The rights that are missing, as Postgres spells them."""
    with engine.connect() as connection:

        def ask(query: sa.TextClause, needed: Sequence[tuple[str, str]]) -> list[str]:
            pairs = dict.fromkeys(pair for pair in needed if can_look(pair[0]))
            names, privileges = ([*each] for each in zip(*pairs, strict=True)) if pairs else ([], [])
            return [*connection.scalars(query, {"names": names, "privileges": privileges})]

        def can_look(name: str) -> bool:
            return not name.startswith(closed)

        closed: tuple[str, ...] = ()
        schemas = ask(
            _LACKING_ON_SCHEMAS, [(name, each) for d in duties for name, all_ in d.schemas.items() for each in all_]
        )
        # Without USAGE on a schema, Postgres refuses even the question about its tables.
        closed = tuple(f"{each.removeprefix('USAGE on schema ')}." for each in schemas if each.startswith("USAGE"))
        signatures = dict.fromkeys(each for d in duties for each in d.functions if can_look(each))
        return [
            *ask(
                _LACKING_ON_TABLES, [(name, each) for d in duties for name, all_ in d.tables.items() for each in all_]
            ),
            *connection.scalars(_LACKING_ON_FUNCTIONS, {"signatures": [*signatures]}),
            *ask(
                _LACKING_ON_COLUMNS, [(name, each) for d in duties for name, all_ in d.columns.items() for each in all_]
            ),
            *schemas,
            *connection.scalars(_LACKING_TEMPORARY),
        ]
