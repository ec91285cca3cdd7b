"""`etl status`: how things stand, once or time and again."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from etl.app.status import Exports, InPostgres, InRedis, Status, WaitingList, reader
from etl.app.threads import stop_on_signals
from etl.cli import FAILED, AsJson, Config, app, configured, print_json
from etl.cli.printing import out, table_of
from etl.store.status import LastListener
from etl.text import duration, printable, size

REFRESH_SECONDS = 2.0
EXPORT_STATES = {
    "open": "not closed yet",
    "not_exported": "not exported yet",
    "changed": "changed since its export",
    "half_way": "its export is half-way",
    "up_to_date": "up to date",
    "in_the_lake_only": "in the lake only",
}


@app.command(
    epilog="Examples: [bold]etl status[/bold] · [bold]etl status --watch[/bold] · [bold]etl status --json[/bold]"
)
def status(
    config: Config = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 seconds, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what waits, who works on it and how fast, what was loaded last, when nobody listened, which letters are
    dead, which values no column could have, what the lake has, and how long Redis's memory lasts.

    Exits with 1 if Redis or Postgres couldn't be asked, what the other knows is still printed; and if a list is broken.
    """
    with reader(configured(config), tries_rights=True) as reading:
        if watch:
            _watch(reading.read, as_json)
            return
        found = reading.with_runway(reading.read())
    _print(found, as_json)
    raise typer.Exit(0 if found.is_whole else FAILED)


def _watch(read: Callable[[], Status], as_json: bool) -> None:
    stop = stop_on_signals()
    if as_json or not out.is_terminal:
        while not stop.is_set():
            _print(read(), as_json)
            stop.wait(REFRESH_SECONDS)
        return
    with Live(console=out, auto_refresh=False) as live:
        while not stop.is_set():
            live.update(_rendered(read()), refresh=True)
            stop.wait(REFRESH_SECONDS)


def _print(found: Status, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        out.print(_rendered(found))


def _rendered(found: Status) -> Group:
    parts: list[RenderableType] = [Text(f"{found.at:%Y-%m-%d %H:%M:%S} UTC", style="bold")]
    if found.redis is None:
        parts.append(_away("Redis", found.redis_error))
    else:
        parts += _of_redis(found.redis)
    if found.postgres is None:
        parts.append(_away("Postgres", found.postgres_error))
    else:
        parts += _of_postgres(found.postgres, found.at)
    parts += [Text(f"blocked: {each.told()} → {each.way_out}", style="bold red") for each in found.blocked_by]
    if trouble := found.clocks_ahead_seconds and found.clocks_ahead_seconds.told():
        parts.append(Text(trouble, style="bold red"))
    return Group(*parts)


def _away(name: str, error: str | None) -> RenderableType:
    return Text(f"{name} couldn't be asked: {printable(str(error)).replace(f' {name}: ', ' ', 1)}", style="bold red")


def _of_redis(found: InRedis) -> Iterator[RenderableType]:
    yield table_of(
        ("source list", "messages waiting", "the oldest for"),
        [(printable(each.source_key), each.waiting_messages, _waiting_for(each)) for each in found.lists],
        ",",
    )
    for each in found.lists:
        if each.broken:
            is_so = "is away" if each.is_away else "is broken"
            yield Text(f"list {printable(each.source_key)} {is_so}: {printable(each.broken)}", style="bold red")
    if found.claims:
        yield table_of(
            ("claim of", "worker", "messages", "claimed", "lease"),
            [
                (
                    printable(each.source_key),
                    printable(each.worker),
                    each.messages,
                    f"{duration(each.claimed_seconds_ago)} ago",
                    _lease(each.lease_seconds),
                )
                for each in found.claims
            ],
            ",",
        )
    else:
        yield _line("claims in flight", "none")
    yield _line("Redis' memory", _memory(found))


def _waiting_for(each: WaitingList) -> str:
    if each.oldest_waiting_seconds is not None:
        return duration(each.oldest_waiting_seconds)
    return "unknown: it doesn't say" if each.waiting_messages else ""


def _lease(seconds: float) -> str:
    return f"{duration(seconds)} left" if seconds > 0 else f"ran out {duration(-seconds)} ago"


def _memory(found: InRedis) -> str:
    if found.memory is None:
        away = any(each.is_away for each in found.lists)
        return "unknown: a node is away" if away else "unknown: this user may not use INFO"
    used = sum(each.used_bytes for each in found.memory)
    limits = [each.limit_bytes for each in found.memory if each.limit_bytes is not None]
    of = "" if all(each.has_maxmemory for each in found.memory) else " (the machine's: maxmemory isn't set)"
    has = f"{size(used)} used of {size(sum(limits))}{of}" if limits else f"{size(used)} used, of how much isn't told"
    if any(each.is_full for each in found.memory):
        return f"{has}; it's full: the dialler's messages are refused"
    if found.runway_seconds is not None:
        return f"{has}; the backlog grows: at this rate it's full in {duration(found.runway_seconds)}"
    return f"{has}; the backlog isn't growing" if found.backlog_grows is False else has


def _of_postgres(found: InPostgres, at: datetime) -> Iterator[RenderableType]:
    for rate in found.rates:
        each = (
            f"{rate.messages_per_second:,.1f} messages/s claimed, {rate.cdrs_inserted_per_second:,.1f} CDRs/s inserted"
        )
        yield _line("last minute" if rate.seconds == 60 else "last hour", each)
    committed, dialed = found.last_cdr.committed_at, found.last_cdr.dialed_at
    last = f"committed {_ago(committed, at)}" if committed else "none"
    yield _line("last CDR", f"{last}; the latest call was dialled {_ago(dialed, at)}" if dialed else last)
    yield from _listening(found, at)
    if found.open_dead_letters:
        yield table_of(
            ("open dead letters", "number", "first received (UTC)", "last received (UTC)"),
            [
                (each.reason, each.letters, _utc(each.first_received_at), _utc(each.last_received_at))
                for each in found.open_dead_letters
            ],
            ",",
        )
    else:
        yield _line("dead letters", "no dead letters are open")
    if values := found.set_aside.values:
        by_field = ", ".join(f"{number:,} of {name}" for name, number in values.items())
        yield _line("set aside", f"{by_field}, in the last day: no whole numbers, kept in extra")
    for noticed_at, back in found.set_backs.found:
        yield Text(
            f"Postgres was set back, as was noticed {_ago(noticed_at, at)}: {printable(back.source_key)}, claims from"
            f" {_utc(back.first_claimed_at)} to {_utc(back.last_claimed_at)}: {back.recalled_claims:,} recalled,"
            f" {back.lost_claims:,} lost",
            style="bold red",
        )
    if claims := found.may_repeat.claims:
        yield _line("may repeat", f"{claims:,} claims of the last day, which not all of Redis' replicas had")
    yield from _exported(found.exports, at)


def _listening(found: InPostgres, at: datetime) -> Iterator[RenderableType]:
    if not found.listeners:
        yield _line("listener", "none: nobody has ever listened")
    for listener in found.listeners:
        yield _line("listener", _listener(listener, at))
    gaps = found.listener_gaps
    lengths = [f"{printable(server)} {duration(length)}" for server, length in gaps.seconds_of_servers.items()]
    of_servers = f": {', '.join(lengths)}" if len(lengths) > 1 else ""
    in_all = f"{gaps.gaps:,} in the last day, {duration(gaps.seconds)} in all{of_servers}"
    yield _line("gaps", in_all if gaps.gaps else "no gap in the last day")


def _listener(found: LastListener, at: datetime) -> str:
    name = f"{printable(found.name)}{f' on {printable(found.server)}' if found.server else ''}"
    if found.is_listening:
        return f"{name} listens since {_utc(found.subscribed_at)}, proven until {_ago(found.proven_until, at)}"
    return f"nobody is proven to listen; last {name}, {_ago(found.proven_until, at)}"


def _exported(found: Exports, at: datetime) -> Iterator[RenderableType]:
    if found.days:
        yield table_of(
            ("dataset", "day", "rows by the ledger", "revision in the lake", "export"),
            [(each.dataset, each.day, each.rows, each.revision, EXPORT_STATES[each.state]) for each in found.days],
            ",",
        )
    else:
        yield _line("days", "no rows in the last 7")
    due = [f"{number:,} of {dataset}" for dataset, number in found.unexported_days.items() if number]
    yield _line("days to export", ", ".join(due) or "none")
    last = [f"{dataset} {_ago(moment, at)}" for dataset, moment in found.last_exported_at.items()]
    yield _line("last export", ", ".join(last) or "never")


def _ago(moment: datetime, now: datetime) -> str:
    return f"{duration(max(0.0, (now - moment).total_seconds()))} ago"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _line(name: str, text: str) -> RenderableType:
    return Text(f"{name + ':':18}{text}")
