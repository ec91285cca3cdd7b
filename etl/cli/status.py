"""`etl status`: how things stand, once or time and again."""

import json
import os
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from etl.cli import FAILED, AsJson, Config, app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Group, RenderableType

    from etl.app.status import InPostgres, InRedis, List, Status

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
    """Say what waits, who works on it and how fast, what was loaded last, what nobody heard, which letters are dead,
    which values no column could have, what the lake has, and how long Redis's memory lasts.

    Exits with 1 if Redis or Postgres couldn't be asked; what the other knows is still printed.
    """
    from etl import settings
    from etl.app.status import reader

    with reader(settings.load(config, os.environ)) as reading:
        if watch:
            _watch(reading.read, as_json)
            return
        found = reading.with_runway(reading.read())
    _print(found, as_json)
    raise typer.Exit(0 if found.is_whole else FAILED)


def _watch(read: "Callable[[], Status]", as_json: bool) -> None:
    from rich.live import Live

    from etl.app.threads import stop_on_signals
    from etl.cli.printing import out

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


def _print(found: "Status", as_json: bool) -> None:
    from etl.cli.printing import out

    if as_json:
        typer.echo(json.dumps(asdict(found), default=_plain))
    else:
        out.print(_rendered(found))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | UUID):
        return str(value)
    raise TypeError(value)


def _rendered(found: "Status") -> "Group":
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{found.at:%Y-%m-%d %H:%M:%S} UTC", style="bold")]
    if found.redis is None:
        parts.append(_away("Redis", found.redis_error))
    else:
        parts += _of_redis(found.redis)
    if found.postgres is None:
        parts.append(_away("Postgres", found.postgres_error))
    else:
        parts += _of_postgres(found.postgres, found.at)
    return Group(*parts)


def _away(name: str, error: str | None) -> "RenderableType":
    from rich.text import Text

    from etl.text import printable

    return Text(f"{name} couldn't be asked: {printable(str(error)).replace(f' {name}: ', ' ', 1)}", style="bold red")


def _of_redis(found: "InRedis") -> "Iterator[RenderableType]":
    from etl.cli.printing import table_of
    from etl.text import duration, printable

    yield table_of(
        ("source list", "messages waiting", "the oldest for"),
        [(printable(each.source_key), each.waiting_messages, _waiting_for(each)) for each in found.lists],
        ",",
    )
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


def _waiting_for(each: "List") -> str:
    from etl.text import duration

    if each.oldest_waiting_seconds is not None:
        return duration(each.oldest_waiting_seconds)
    return "unknown: it doesn't say" if each.waiting_messages else ""


def _lease(seconds: float) -> str:
    from etl.text import duration

    return f"{duration(seconds)} left" if seconds > 0 else f"ran out {duration(-seconds)} ago"


def _memory(found: "InRedis") -> str:
    from etl.text import duration, size

    if found.memory is None:
        return "unknown: this user may not use INFO"
    used = sum(each.used_bytes for each in found.memory)
    limits = [each.limit_bytes for each in found.memory if each.limit_bytes is not None]
    of = "" if all(each.has_maxmemory for each in found.memory) else " (the machine's: maxmemory isn't set)"
    has = f"{size(used)} used of {size(sum(limits))}{of}" if limits else f"{size(used)} used, of how much isn't told"
    if found.runway_seconds is not None:
        return f"{has}; the backlog grows: at this rate it's full in {duration(found.runway_seconds)}"
    return f"{has}; the backlog isn't growing" if found.backlog_grows is False else has


def _of_postgres(found: "InPostgres", at: datetime) -> "Iterator[RenderableType]":
    from etl.cli.printing import table_of
    from etl.text import duration, printable

    def ago(moment: datetime) -> str:
        return f"{duration(max(0.0, (at - moment).total_seconds()))} ago"

    for rate in found.rates:
        each = (
            f"{rate.messages_per_second:,.1f} messages/s claimed, {rate.cdrs_inserted_per_second:,.1f} CDRs/s inserted"
        )
        yield _line("last minute" if rate.seconds == 60 else "last hour", each)
    committed, dialed = found.last_cdr.committed_at, found.last_cdr.dialed_at
    said = f"committed {ago(committed)}" if committed else "none"
    yield _line("last CDR", f"{said}; the latest call was dialled {ago(dialed)}" if dialed else said)
    if not found.listeners:
        yield _line("listener", "none: nobody has ever listened")
    for listener in found.listeners:
        name = f"{printable(listener.name)}{f' on {printable(listener.server)}' if listener.server else ''}"
        if listener.is_listening:
            since = f"listens since {_utc(listener.subscribed_at)}, proven until {ago(listener.proven_until)}"
            yield _line("listener", f"{name} {since}")
        else:
            yield _line("listener", f"nobody is proven to listen; last {name}, {ago(listener.proven_until)}")
    gaps = found.listener_gaps
    deaf = [f"{printable(server)} {duration(length)}" for server, length in gaps.seconds_of_servers.items()]
    of_servers = f": {', '.join(deaf)}" if len(deaf) > 1 else ""
    none = "no gap in the last day"
    said = f"{gaps.gaps:,} in the last day, {duration(gaps.seconds)} in all{of_servers}"
    yield _line("gaps", said if gaps.gaps else none)
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
    if days := found.exports.days:
        yield table_of(
            ("dataset", "day", "rows by the ledger", "revision in the lake", "export"),
            [(each.dataset, each.day, each.rows, each.revision, EXPORT_STATES[each.state]) for each in days],
            ",",
        )
    else:
        yield _line("days", "no rows in the last 7")
    due = [f"{number:,} of {dataset}" for dataset, number in found.exports.unexported_days.items() if number]
    yield _line("days to export", ", ".join(due) or "none")
    last = [f"{dataset} {ago(moment)}" for dataset, moment in found.exports.last_exported_at.items()]
    yield _line("last export", ", ".join(last) or "never")


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _line(name: str, says: str) -> "RenderableType":
    from rich.text import Text

    return Text(f"{name + ':':18}{says}")
