"""`etl gaps`: what the audit trail of PubSub lacks."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from etl.app import database
from etl.cli import AsJson, Config, app, configured, print_json
from etl.cli.printing import out, print_rows
from etl.text import printable


@app.command(
    epilog="Examples: [bold]etl gaps[/bold] · [bold]etl gaps --since 2026-11-01 --until 2026-11-22 --json[/bold] ·"
    " [bold]etl gaps --retire 10.0.0.5:6379/2[/bold]"
)
def gaps(
    config: Config = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Start of the period, UTC; default: a day before its end.", show_default=False),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="End of the period, UTC; default: now.", show_default=False)
    ] = None,
    retired: Annotated[
        str | None,
        typer.Option(
            "--retire",
            metavar="NAME",
            help="From now on, don't expect anything of what was listened to on this Redis server: it's gone, or its"
            " patterns were narrowed on purpose. Its gap ends, and what is listened to from now on begins anew.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print when nobody was proven to listen, by Redis server and pattern: what the dialler published there then may be
    missing from audit_events."""
    if retired is not None:
        if since or until:
            raise typer.BadParameter("goes without --since and --until", param_hint="--retire")
        _retire(config, retired, as_json)
        return
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    start = since.replace(tzinfo=UTC) if since else end - timedelta(days=1)
    if start >= end:
        raise typer.BadParameter("must be earlier than --until", param_hint="--since")
    found = database.gaps(configured(config), start, end)
    seconds = [(gap.gap_until - gap.gap_from).total_seconds() for gap in found]
    if as_json:
        rows = [
            {
                "from": gap.gap_from,
                "until": gap.gap_until,
                "seconds": length,
                "reason": gap.reason,
                "server": gap.server,
                "patterns": gap.patterns,
            }
            for gap, length in zip(found, seconds, strict=True)
        ]
        print_json({"since": start, "until": end, "gaps": rows})
    elif not found:
        out.print(f"no gap between {start:%Y-%m-%d %H:%M:%S} and {end:%Y-%m-%d %H:%M:%S} UTC")
    else:
        print_rows(
            ("from (UTC)", "until (UTC)", "seconds", "reason", "server", "patterns"),
            [
                (
                    f"{gap.gap_from:%Y-%m-%d %H:%M:%S}",
                    f"{gap.gap_until:%Y-%m-%d %H:%M:%S}",
                    f"{length:,.1f}",
                    gap.reason,
                    printable(gap.server or ""),
                    printable(" ".join(gap.patterns or ())),
                )
                for gap, length in zip(found, seconds, strict=True)
            ],
        )


def _retire(config: Config, server: str, as_json: bool) -> None:
    retired_at = database.retire(configured(config), server).astimezone(UTC)
    if as_json:
        print_json({"server": server, "retired_at": retired_at})
    else:
        out.print(f"{server} was retired at {retired_at:%Y-%m-%d %H:%M:%S} UTC", markup=False)
