"""Is Postgres as the loader needs it: what is asked, in which order, and what is to be thought of the answers. The
questions themselves are in `etl.store.preflight`.
"""

from collections.abc import Iterator, Sequence

from etl.errors import ConfigurationError
from etl.jobs.findings import Finding, asked, clock, line, reachable
from etl.store import preflight as store
from etl.store import schema
from etl.store.connection import Engine
from etl.text import size

NEEDED = 14  # pg_inherits.inhdetachpending
MIB = 1024 * 1024
SPACE_WRONG = 1024 * MIB
SPACE_WARNING = 0.1  # of the disk
_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Etc/UCT", "Zulu")


def of_postgres(engine: Engine) -> Iterator[Finding]:
    reached = reachable("Postgres", lambda: store.server(engine), "ETL_DATABASE_URL")
    yield reached
    if reached.verdict == "wrong":
        return
    yield from asked("line to Postgres", lambda: [line("Postgres", store.line(engine), "ETL_DATABASE_CA_FILE")])
    yield from asked("Postgres", lambda: _server(store.server(engine)))
    yield from asked("Postgres schema", lambda: [_schema(engine)])
    yield from asked("Postgres rights", lambda: [_grants(store.lacking(engine), store.server(engine).user)])
    yield from asked("Postgres disk", lambda: [_space(engine)])
    yield from asked("clock of Postgres", lambda: [clock("Postgres", lambda: store.clock(engine))])


def _server(server: store.Server) -> list[Finding]:
    return [_version(server), _role(server), _time_zone(server)]


def _version(server: store.Server) -> Finding:
    if server.number // 10_000 < NEEDED:
        advice = f"upgrade it to {NEEDED} or newer"
        return Finding("Postgres version", "wrong", f"{server.version} is too old", advice)
    return Finding("Postgres version", "fine", server.version)


def _role(server: store.Server) -> Finding:
    if server.is_standby:
        return Finding("Postgres role", "wrong", "this is a standby: it takes no writes", "name the primary")
    return Finding("Postgres role", "fine", "primary")


def _time_zone(server: store.Server) -> Finding:
    if server.time_zone in _UTC:
        return Finding("Postgres time zone", "fine", server.time_zone)
    says = f"{server.time_zone}: days are UTC days, so dialed_at::date may differ from dialed_on in its sessions"
    return Finding("Postgres time zone", "warning", says, f"ALTER ROLE \"{server.user}\" SET timezone = 'UTC'")


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


def _grants(lacks: Sequence[str], user: str) -> Finding:
    about = "Postgres rights"
    if lacks:
        advice = f'GRANT them to "{user}", or let etl be the role etl_loader that ops/postgres/roles.sql makes'
        return Finding(about, "wrong", f"{user} lacks {', '.join(lacks)}", advice)
    return Finding(about, "fine", f"{user} may do all that loading and exporting take")


def _space(engine: Engine) -> Finding:
    about = "Postgres disk"
    ask = "ask who runs it"
    try:
        space = store.space(engine)
    except ConfigurationError:
        says = "this user may not know where the data lies"
        return Finding(about, "unknown", says, f"grant pg_read_all_settings to it, or {ask}")
    if space is None:
        return Finding(about, "unknown", "the server is on another machine, or keeps its folder to itself", ask)
    says = f"{size(space.free)} free of {size(space.total)}; the archive has {size(space.database)}"
    if space.free < SPACE_WRONG:
        return Finding(about, "wrong", says, "make room, or let `etl prune` forget days that are in the lake")
    if space.free < SPACE_WARNING * space.total:
        return Finding(about, "warning", says, "make room soon; `etl prune` forgets days that are in the lake")
    return Finding(about, "fine", says)
