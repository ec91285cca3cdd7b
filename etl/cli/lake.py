"""`etl export`, `verify`, `restore`, `prune` and `reconcile`: days on their way between Postgres and the lake."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from etl import logs
from etl.app.days import first_open_day, last_day_to_drop
from etl.app.lake import after_export, open_lake
from etl.cli import FAILED, AsJson, Config, a_day, app, configured, print_json
from etl.cli.printing import advancing, out, print_rows
from etl.errors import Busy, LakeError
from etl.jobs.outcomes import WRONG, Outcome, one_by_one
from etl.lake.datasets import DATASETS, Dataset
from etl.lake.difference import Difference
from etl.lake.export import Progress
from etl.store.days import DayBooks

MIB = 1 << 20
LONGEST_REASON = 500  # characters: people read it in a table


class Which(StrEnum):
    CDRS = "cdrs"
    AUDIT_EVENTS = "audit_events"


ThisDataset = Annotated[
    Which | None, typer.Option("--dataset", help="Only this one; default: both.", show_default=False)
]
Day = Annotated[
    date | None, typer.Option("--day", parser=a_day, metavar="DAY", help="This day (UTC) only.", show_default=False)
]
First = Annotated[
    date | None, typer.Option("--from", parser=a_day, metavar="DAY", help="First day.", show_default=False)
]
Last = Annotated[date | None, typer.Option("--to", parser=a_day, metavar="DAY", help="Last day.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

Work = tuple[Dataset, DayBooks]


@app.command(
    epilog="Examples: [bold]etl export[/bold] (from cron, nightly) · [bold]etl export --day 2026-11-22 --dry-run[/bold]"
)
def export(
    config: Config = None,
    dataset: ThisDataset = None,
    day: Day = None,
    first: First = None,
    last: Last = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also days that aren't closed or haven't changed, or whose books don't balance."),
    ] = False,
    because: Annotated[
        str | None,
        typer.Option(
            "--because",
            metavar="TEXT",
            help="With --force: why rows were changed of which the ledger knows no change. The revision keeps it.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write closed days to the lake as Parquet: without dates, all that changed since their last export. Logs in by
    ETL_LAKE_DATABASE_URL, if that is set."""
    settings = configured(config)
    period = _period(day, first, last)
    why = _because(because, force)
    open_day = first_open_day(settings)
    if period and period[1] >= open_day and not force:
        raise typer.BadParameter(
            f"{max(period[0], open_day)} isn't closed yet: a day is, {settings.export_grace_minutes} minutes after"
            " midnight UTC; --force exports it as it is"
        )
    with open_lake(settings) as lake:
        work: list[Work] = []
        for each in _datasets(dataset):
            found = lake.books(each, *period) if period else lake.due(each, open_day)
            work += [(each, books) for books in found]
        try:
            _do(
                work,
                lambda each, on, progress: lake.export(each, on, progress, force, why),
                "exporting",
                as_json,
                lake.would_export if dry_run else None,
            )
        finally:
            if not dry_run:
                after_export(settings, lake, only_tables=period is not None)


@app.command(epilog="Examples: [bold]etl verify[/bold] · [bold]etl verify --day 2026-11-21 --deep[/bold]")
def verify(
    config: Config = None,
    dataset: ThisDataset = None,
    day: Day = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every row with Postgres, where the day still is.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read files back from where they live and compare them with the books. Exit code 1 if anything differs. Logs in
    by ETL_LAKE_DATABASE_URL, if that is set."""
    with open_lake(configured(config)) as lake:
        work = [
            (each, books)
            for each in _datasets(dataset)
            for books in lake.verifiable(each, day or date.min, day or date.max)
        ]
        if day and not work:
            raise LakeError("ETL-503", f"{day} was never exported")
        wrong: list[Difference] = []
        notes: list[Difference] = []
        with _advancing("verifying", work, as_json) as progress:
            for each, books in work:
                try:
                    found = lake.verify(each, books.day, deep)
                    wrong, notes = wrong + found.wrong, notes + found.notes
                except (Busy, LakeError) as error:
                    wrong.append(Difference(each.name, books.day, "file", "readable", str(error)))
                progress(books.rows)
    _print_differences(wrong, len(work), as_json, notes)
    raise typer.Exit(FAILED if wrong else 0)


@app.command(
    epilog="Examples: [bold]etl restore --day 2026-11-21[/bold] · [bold]etl restore --day 2026-11-21 --into "
    "november[/bold] · [bold]etl restore --day 2026-11-21 --prove[/bold] · [bold]etl restore --all-missing[/bold]"
)
def restore(
    day: Day = None,
    all_missing: Annotated[
        bool,
        typer.Option(
            "--all-missing",
            help="Every day of which the lake has more than the books know: after Postgres was set back.",
        ),
    ] = False,
    config: Config = None,
    dataset: ThisDataset = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="SCHEMA", help="A schema to put a table of its own into.", show_default=False),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Into a table aside, compare, throw it away: would it work?")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a day's rows from the lake back into Postgres. Those that are there already stay: safe to run again. Logs
    in by ETL_LAKE_DATABASE_URL, if that is set."""
    if into and prove:
        raise typer.BadParameter("either --into or --prove")
    if (day is None) != all_missing:
        raise typer.BadParameter("either --day or --all-missing")
    with open_lake(configured(config)) as lake:
        work = [
            (each, books)
            for each in _datasets(dataset)
            for books in (lake.restorable(each, day) if day else lake.missing(each))
        ]
        if day and not work:
            raise LakeError("ETL-503", f"{day} was never exported")

        def one(each: Dataset, on: date, progress: Progress) -> Outcome:
            return lake.prove(each, on, progress) if prove else lake.restore(each, on, progress, into)

        _do(work, one, "restoring", as_json)


@app.command(epilog="Examples: [bold]etl prune --keep-days 90 --dry-run[/bold] · [bold]etl prune --keep-days 90[/bold]")
def prune(
    keep_days: Annotated[int, typer.Option(min=1, help="Days before today that Postgres keeps.")],
    config: Config = None,
    dataset: ThisDataset = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Drop days older than that from Postgres, each after its file was compared with it row by row. Others stay, and
    the reason is printed. Logs in by ETL_LAKE_DATABASE_URL, if that is set."""
    with open_lake(configured(config)) as lake:
        last = last_day_to_drop(keep_days)
        work = [(each, books) for each in _datasets(dataset) for books in lake.prunable(each, last)]
        _do(work, lambda each, on, _: lake.prune(each, on), "pruning", as_json, lake.would_prune if dry_run else None)


@app.command(epilog="Examples: [bold]etl reconcile[/bold] · [bold]etl reconcile --from 2026-11-01 --json[/bold]")
def reconcile(
    config: Config = None,
    dataset: ThisDataset = None,
    first: First = None,
    last: Last = None,
    unite: Annotated[
        bool, typer.Option("--unite", help="First make calls that 0.1 stored as leg 1 their first leg's rows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print each day's rows by the ledger, in Postgres and in the lake, and how many calls look like one in two rows.
    Exit code 1 if the books don't balance. Logs in by ETL_LAKE_DATABASE_URL, if that is set."""
    period = _period(None, first, last) or (date.min, date.max)
    with open_lake(configured(config)) as lake:
        united = lake.unite(*period) if unite else []
        work = [(each, books) for each in _datasets(dataset) for books in lake.books(each, *period)]
        may_repeat = lake.may_repeat(*period)
        found = []
        with _advancing("reconciling", work, as_json) as progress:
            for each, books in work:
                found.append(lake.compare(each, books.day))
                progress(books.rows)
    if as_json:
        united_days = {"united": [asdict(each) for each in united]} if unite else {}
        print_json({"days": [asdict(each) for each in found], "claims_that_may_repeat": may_repeat, **united_days})
    elif found:
        for day in united:
            out.print(f"{day.day}: {day.renamed:,} rows of leg 1 are leg 0 now, {day.united:,} more joined theirs")
        columns = ("dataset", "day", "ledger", "postgres", "lake", "twins", "verdict", "why")
        print_rows(columns, [tuple(getattr(each, column) for column in columns) for each in found])
        if pairs := sum(each.twins or 0 for each in found):
            out.print(
                f"{pairs:,} calls look like one call in two rows, and are counted twice. `etl reconcile --unite` unites"
                " those of legs 1 and 0; reporting.twins lists them all"
            )
    else:
        out.print("no day has any rows yet")
    if may_repeat and not as_json:
        out.print(f"{may_repeat:,} claims may come again after a fail-over: not all of Redis' replicas had them")
    raise typer.Exit(FAILED if any(each.verdict in WRONG for each in found) else 0)


def _because(because: str | None, force: bool) -> str:
    if because is None:
        return ""
    if not force:
        raise typer.BadParameter("--because goes with --force")
    if not because.strip() or len(because) > LONGEST_REASON or not because.isprintable():
        raise typer.BadParameter(f"--because takes 1 to {LONGEST_REASON} printable characters on one line")
    return because.strip()


def _period(day: date | None, first: date | None, last: date | None) -> tuple[date, date] | None:
    if day and (first or last):
        raise typer.BadParameter("either --day or --from and --to")
    if day:
        return day, day
    if first and last and first > last:
        raise typer.BadParameter("--from must not be later than --to")
    if first or last:
        return first or date.min, last or datetime.now(UTC).date() - timedelta(days=1)
    return None


def _datasets(which: Which | None) -> list[Dataset]:

    return [DATASETS[which]] if which else list(DATASETS.values())


def _advancing(what: str, work: Sequence[Work], as_json: bool) -> AbstractContextManager[Progress]:
    """Call what it gives with the number of rows just done."""
    return advancing(what, sum(books.rows for _, books in work), sys.stderr.isatty() and not as_json)


def _do(
    work: Sequence[Work],
    operation: Callable[[Dataset, date, Progress], Outcome],
    what: str,
    as_json: bool,
    foresee: Callable[[DayBooks], Outcome] | None = None,
) -> None:
    """Day by day, or foreseeing it only; then print what became of each, and exit with 1 if one failed."""
    if foresee:
        _print([_row(foresee(books)) for _, books in work], as_json)
        return
    logs.configure(level="warning" if sys.stderr.isatty() else "info")
    with _advancing(what, work, as_json) as progress:
        days = [(dataset, books.day) for dataset, books in work]
        outcomes = one_by_one(lambda dataset, day: operation(dataset, day, progress), days, logs.get())
    _print([_row(outcome) for outcome in outcomes], as_json)
    for outcome in outcomes:
        if outcome.differences and not as_json:
            _print_differences(outcome.differences, 1, as_json)
    raise typer.Exit(FAILED if any(outcome.what == "failed" for outcome in outcomes) else 0)


def _row(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "differences": [each._asdict() for each in outcome.differences]}


def _print(rows: Sequence[dict[str, Any]], as_json: bool) -> None:

    if as_json:
        print_json({"days": rows})
    elif not rows:
        out.print("nothing to do")
    else:
        print_rows(
            ("dataset", "day", "what", "revision", "rows", "MiB", "why"),
            [
                (r["dataset"], r["day"], r["what"], r["revision"], r["rows"], f"{r['bytes'] / MIB:.1f}", r["why"])
                for r in rows
            ],
        )


def _print_differences(
    differences: Sequence[Difference], days: int, as_json: bool, notes: Sequence[Difference] = ()
) -> None:

    if as_json:
        rows, others = ([each._asdict() for each in some] for some in (differences, notes))
        print_json({"verified": days, "differences": rows, "notes": others})
        return
    columns = ("dataset", "day", "what", "expected", "found")
    if notes:
        print_rows(columns, [tuple(each) for each in notes])
    if differences:
        print_rows(columns, [tuple(each) for each in differences])
    else:
        out.print(f"{days:,} files are what the books say")
