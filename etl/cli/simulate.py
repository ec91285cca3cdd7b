"""`etl simulate`: a dialler that isn't one."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from etl.cli import AsJson, Config, app, configured, print_json
from etl.cli.printing import counting
from etl.lab import dialler
from etl.lab.heard import last_until
from etl.lab.simulator import Profile


@app.command(
    epilog="Examples: [bold]etl simulate --cdrs 1000 --rate 50[/bold] · "
    "[bold]etl simulate --cdrs 100000 --dialect both --duplicates 0.05 --broken 0.001 --days 7[/bold] · "
    "[bold]ETL_REDIS_NAME=simulator etl simulate --cdrs 20000 --days 7 --dialect both --heard[/bold]"
)
def simulate(
    config: Config = None,
    cdrs: Annotated[int, typer.Option(min=0, help="Distinct calls.")] = 1_000,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Messages a second; default: as fast as it can.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and end give the same bytes.")] = 1,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of messages sent again.")] = 0.0,
    broken: Annotated[float, typer.Option(min=0, max=1, help="Share of broken messages.")] = 0.0,
    late: Annotated[float, typer.Option(min=0, max=1, help="Share of calls from one to three days before.")] = 0.0,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="Days over which the calls were dialled.")] = 1,
    dialect: Annotated[str, typer.Option(help="a, b or both: the CDR's form; see docs/protocol.md.")] = "a",
    pubsub: Annotated[
        bool, typer.Option("--pubsub", help="Publish agents' and campaigns' events too; only who listens hears them.")
    ] = False,
    heard: Annotated[
        bool,
        typer.Option(
            "--heard",
            help="Put these events on the spool instead, as somebody would have heard them on the simulated days. For a"
            " Redis that ETL_REDIS_NAME calls simulator.",
        ),
    ] = False,
    until: Annotated[
        datetime | None,
        typer.Option(
            help="End of the simulated time, UTC; default: now, with --heard half an hour ago.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Push simulated CDRs onto the configured Redis lists, as a dialler would."""
    if dialect not in ("a", "b", "both"):
        raise typer.BadParameter("must be a, b or both", param_hint="--dialect")
    if pubsub and heard:
        raise typer.BadParameter("either --pubsub, which publishes now, or --heard")
    settings = configured(config)
    end = last_until(time.time()) if heard else datetime.now(UTC)
    has_click2dial = any(source.source == "click2dial" for source in settings.sources)
    profile = Profile(
        cdrs=cdrs,
        until=until.replace(tzinfo=UTC) if until else end,
        seed=seed,
        days=days,
        dialect=dialect,  # type: ignore[arg-type]
        duplicates=duplicates,
        broken=broken,
        late=late,
        click2dial=0.1 if has_click2dial else 0.0,
        pubsub=pubsub or heard,
    )
    with counting("pushing", None, show=sys.stderr.isatty() and not as_json) as progress:
        tally = dialler.simulate(settings, profile, rate, progress, heard=heard)
    if as_json:
        print_json({**vars(tally), "days": _days(tally.days)})
    else:
        broken_count = sum(tally.broken.values())
        typer.echo(
            f"pushed {tally.messages:,} messages: {tally.calls:,} calls, {tally.duplicates:,} duplicates, "
            f"{broken_count:,} broken"
        )
        if pubsub or heard:
            typer.echo(
                f"{'heard' if heard else 'published'} {tally.published.total():,} events: {_kinds(tally.published)}"
            )


def _kinds(published: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(published.items())) or "none"


def _days(days: Mapping[tuple[str, date], int]) -> dict[str, dict[str, int]]:
    by_source: dict[str, dict[str, int]] = {}
    for (source, day), calls in sorted(days.items(), key=str):
        by_source.setdefault(source, {})[str(day)] = calls
    return by_source
