"""`etl dead`: the messages that could not be understood or stored."""

import base64
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from etl.app import database
from etl.cli import AsJson, Config, app, configured, print_json
from etl.cli.printing import advancing, out, print_rows
from etl.errors import EtlError
from etl.store import dead_letters
from etl.store.dead_letters import Letter, Wanted
from etl.text import printable

dead = typer.Typer(
    help="Dead letters: messages that could not be understood or stored, kept byte for byte. None is ever deleted.",
    epilog="Example: [bold]etl dead list --reason missing_field[/bold]",
    no_args_is_help=True,
)
app.add_typer(dead, name="dead")

ReasonOption = Annotated[str | None, typer.Option(help="Only of this reason, like not_json.", show_default=False)]
SourceKey = Annotated[str | None, typer.Option("--source", help="Only from this list or channel.", show_default=False)]
Since = Annotated[datetime | None, typer.Option(help="Received at this time (UTC) or later.", show_default=False)]
Until = Annotated[datetime | None, typer.Option(help="Received before this time (UTC).", show_default=False)]

# Bytes of a message in a table: enough to recognise its kind.
BEGINNING = 60
# Of a larger message `etl dead list --json` has the beginning only; `etl dead show` has it whole.
LISTED_BYTES = 64 * 1024
# Days that one run of `replay --any-day` may add: each is a partition, for good until it is pruned.
NEW_DAYS = 100


@dead.command(
    name="list",
    epilog="Examples: [bold]etl dead list[/bold] · "
    "[bold]etl dead list --reason bad_type --since 2026-11-01 --json[/bold]",
)
def list_(
    config: Config = None,
    reason: ReasonOption = None,
    source: SourceKey = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that are resolved, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List open dead letters, the latest first, and count them by reason. With --json, `raw_base64` has at most the
    first 64 KiB of a message; `bytes` is its length, and `etl dead show` has it whole."""
    wanted = _wanted((), reason, source, since, until, everything)
    with database.opened(configured(config)) as engine:
        letters = dead_letters.find(engine, wanted, limit, LISTED_BYTES if as_json else BEGINNING)
        counts = dead_letters.count(engine, wanted)
    if as_json:
        print_json({"by_reason": counts, "letters": [_as_json(letter) for letter in letters]})
        return
    if not letters:
        out.print("no dead letters")
        return
    print_rows(
        ("id", "received (UTC)", "from", "server", "reason", "detail", "begins with", "resolution"),
        [
            (
                letter.id,
                f"{letter.received_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                printable(letter.source_key),
                letter.server,
                letter.reason,
                printable(letter.detail),
                printable(letter.raw.decode(errors="backslashreplace")),
                letter.resolution,
            )
            for letter in letters
        ],
    )
    total = sum(counts.values())
    by_reason = ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
    out.print(f"{total:,} in all: {by_reason}" + (f"; the latest {len(letters):,} are shown" if total > limit else ""))


@dead.command(epilog="Examples: [bold]etl dead show 17[/bold] · [bold]etl dead show 17 18 --json[/bold]")
def show(
    ids: Annotated[list[int], typer.Argument(metavar="ID...", help="As `etl dead list` names them.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show dead letters whole. What a terminal might obey is spelled out; --json has the exact bytes in base64."""
    with database.opened(configured(config)) as engine:
        letters = dead_letters.find(engine, Wanted(ids=ids, resolved_too=True))
    if missing := sorted(set(ids) - {letter.id for letter in letters}):
        raise EtlError("ETL-402", f"there is no dead letter {', '.join(map(str, missing))}")
    if as_json:
        print_json({"letters": [_as_json(letter) for letter in letters]})
        return
    for letter in letters:
        fields = {
            "received": f"{letter.received_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC",
            "from": letter.source_key,
            "server": letter.server or "unknown: loaded by an etl before 0.2",
            "claim": f"{letter.batch_id}, message {letter.position}",
            "reason": f"{letter.reason}: {letter.detail}",
            "resolution": letter.resolution or "none: it's open",
            "bytes": str(letter.bytes),
        }
        out.print(f"[bold]dead letter {letter.id}[/bold]")
        for name, value in fields.items():
            out.print(f"  {name:11}{printable(value)}", markup=False, soft_wrap=True)
        out.print(printable(letter.raw.decode(errors="backslashreplace")), markup=False, soft_wrap=True)


@dead.command(
    epilog='Examples: [bold]etl dead discard 17 --because "test call"[/bold] · '
    '[bold]etl dead discard --reason not_json --until 2026-11-01 --because "old monitor" --dry-run[/bold]'
)
def discard(
    because: Annotated[str, typer.Option(help="Why nothing needs to be done; it's kept with the letter.")],
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="These only.", show_default=False)] = None,
    config: Config = None,
    reason: ReasonOption = None,
    source: SourceKey = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resolve open dead letters that nothing needs to be done about. The letters stay, and so does the reason."""
    if not because.strip():
        raise typer.BadParameter("must say why", param_hint="--because")
    if not (ids or reason or source or since or until):
        raise typer.BadParameter("say which: their ids, --reason, --source, --since or --until")
    wanted = _wanted(ids or (), reason, source, since, until)
    with database.opened(configured(config)) as engine:
        if dry_run:
            number = sum(dead_letters.count(engine, wanted).values())
        else:
            number = dead_letters.discard(engine, wanted, because.strip())
    if as_json:
        print_json({"discarded": 0 if dry_run else number, "would_be": number})
    else:
        out.print(f"{number:,} {'would be ' if dry_run else ''}discarded")


@dead.command(
    epilog="Examples: [bold]etl dead replay[/bold] · [bold]etl dead replay --reason too_large[/bold] (after raising "
    "ETL_MAX_MESSAGE_BYTES) · [bold]etl dead replay --reason out_of_range --any-day[/bold]"
)
def replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="These only.", show_default=False)] = None,
    config: Config = None,
    reason: ReasonOption = None,
    source: SourceKey = None,
    since: Since = None,
    until: Until = None,
    any_day: Annotated[
        bool, typer.Option("--any-day", help="Calls that are older than ETL_OLDEST_DAYS are stored too.")
    ] = False,
    new_days: Annotated[
        int | None,
        typer.Option(min=0, help=f"With --any-day: make at most so many days that are new, {NEW_DAYS} if not told."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try open dead letters once more, all or those that are wanted. What can be stored now is, and is resolved; the
    others stay open, with today's reason."""
    if new_days is not None and not any_day:
        raise typer.BadParameter("goes with --any-day only", param_hint="--new-days")
    most = (NEW_DAYS if new_days is None else new_days) if any_day else None
    wanted = _wanted(ids or (), reason, source, since, until)
    with database.opened(configured(config)) as engine:
        total = sum(dead_letters.count(engine, wanted).values())
    if dry_run:
        if as_json:
            print_json({"would_be": total})
        else:
            out.print(f"{total:,} would be tried")
        return
    from etl.app.replay import replay_dead_letters  # noqa: PLC0415 (with Redis and decoders: the others need neither)

    with advancing("replaying", total, sys.stderr.isatty() and not as_json) as progress:
        replayed = replay_dead_letters(configured(config), wanted, progress, most)
    tried = replayed.books.claimed + replayed.still_dead + sum(replayed.unknown.values())
    if as_json:
        print_json({"tried": tried, **asdict(replayed)})
        return
    out.print(f"{tried:,} tried: {replayed.books.claimed:,} are stored now, {replayed.still_dead:,} are still dead")
    if replayed.left:
        out.print(f"{replayed.left:,} are of more new days than the {most:,} of one run: run it again for the next")
    for key, number in replayed.unknown.items():
        out.print(f"{number:,} came from {printable(key)}, which these settings don't load: left alone", markup=False)


def _wanted(
    ids: Sequence[int],
    reason: str | None,
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    everything: bool = False,
) -> Wanted:
    return Wanted(
        ids=tuple(ids),
        reason=reason,
        source_key=source,
        since=since.replace(tzinfo=UTC) if since else None,
        until=until.replace(tzinfo=UTC) if until else None,
        resolved_too=everything,
    )


def _as_json(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "received_at": letter.received_at,
        "source_key": letter.source_key,
        "reason": letter.reason,
        "detail": letter.detail,
        "batch_id": letter.batch_id,
        "position": letter.position,
        "raw_base64": base64.b64encode(letter.raw).decode(),
        "bytes": letter.bytes,
        "resolved_at": letter.resolved_at,
        "resolution": letter.resolution,
        "server": letter.server,
    }
