"""`etl forget`: a person's number and contact references, out of Postgres and out of the lake."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from etl import logs
from etl.app.forget import forget_again, open_forgetting
from etl.cli import FAILED, AsJson, Config, app, configured, print_json
from etl.cli.printing import advancing, err, out, print_rows, program
from etl.errors import EtlError
from etl.jobs.forget import Found
from etl.jobs.remains import Searched

# Of what is left, so many lines are printed; --json has all.
_LINES = 20
# Between two lines that say how far the search is, in seconds.
_BEAT = 30.0


@app.command(
    epilog="Examples: [bold]etl forget --number 0741484437 --dry-run[/bold] · [bold]etl forget --contact M0042[/bold]"
    " · [bold]etl forget --again[/bold]"
)
def forget(
    number: Annotated[
        str | None, typer.Option(help="The person's number, exactly as it's stored.", show_default=False)
    ] = None,
    contact: Annotated[
        str | None, typer.Option(help="Their contact reference, exactly as it's stored.", show_default=False)
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Another spelling of the same, such as +44… of 0…; may be repeated. --dry-run proposes those that it"
            " finds.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Whoever came back as Postgres was set back: by the receipts in the lake."),
    ] = False,
    config: Config = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Change nothing: count, search, and propose what else to forget. It prints other spellings in full.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask whether it's meant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person for good: in Postgres, copies of `etl restore --into` included, and in every file of the lake a
    keyed hash takes the place of their number, and of the contact references beside it; or the other way round. Then
    every row of every table and file is read, once, to prove that they are gone: hours in a large archive. Whatever is
    left, other spellings too, is named, with exit code 1. Needs ETL_FORGET_KEY, and the rights of the tables' owner.
    What still lies in Redis is erased on arrival, by loaders that have the key. Safe to run again, and after a crash to
    be run again."""
    if (number is not None) + (contact is not None) + again != 1:
        raise typer.BadParameter("either --number or --contact or --again")
    if again and (dry_run or also):
        raise typer.BadParameter("--again stands alone: neither --dry-run nor --also")
    if again:
        _again(config, as_json)
    if not (number or contact) or not all(also or ["-"]):
        raise typer.BadParameter("must not be empty", param_hint="--number / --contact / --also")
    logs.configure(level="warning")
    with open_forgetting(configured(config), number, contact, also or ()) as person:
        if not (dry_run or yes):
            typer.confirm("This can't be undone. Forget this person?", abort=True, err=True)
        rows = sum(books.rows for _, books in person.days)
        with advancing("looking", rows, sys.stderr.isatty() and not as_json) as told:
            receipt, found = (None, person.count(told, Beat())) if dry_run else person.run(told, Beat())
    more = _more(person.person.by, person.person.values, found.searched, config) if dry_run else ""
    _print(person.person.hash, receipt.id if receipt else None, found, more, as_json)
    failures = [*found.failed, *_failures([found], looked=dry_run)]
    _end(failures)


class Beat:
    """Says on standard error how far the search is, if it takes long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def __call__(self, done: int, total: int, place: str) -> None:
        if self._clock() - self._last >= _BEAT:
            self._last = self._clock()
            line = f"etl: searched {done:,} of {total:,} tables and files; next: {place}"
            err.print(line, markup=False, soft_wrap=True)


def _again(config: Config, as_json: bool) -> None:
    logs.configure(level="warning")
    found = forget_again(configured(config), Beat())
    failed = [*(failure for each in found for failure in each.failed), *_failures(found)]
    searched = next((each.searched for each in found if each.searched), None)
    if as_json:
        print_json({"receipts": len(found), "failed": failed, "searched": _json(searched)})
    else:
        out.print(f"{len(found):,} erasures that these books didn't know, or not as completed, were made again")
        if searched:
            _print_searched(searched)
    _end(failed)


def _end(failures: Sequence[str]) -> None:
    for failure in failures:
        err.print(f"etl: {failure}", markup=False, soft_wrap=True)
    raise typer.Exit(FAILED if failures else 0)


def _failures(found: Sequence[Found], looked: bool = False) -> list[str]:
    """What the search makes of it, if anything is wrong with that; `looked`: what is there is no fault."""
    searched = next((each.searched for each in found if each.searched), None)
    if searched is None:
        return []
    errors = []
    left = [each for each in searched.remains if each.kind == "itself"]
    alike = [each for each in searched.remains if each.kind == "alike"]
    if left and not looked:
        fields = sum(each.rows for each in left)
        errors.append(EtlError("ETL-921", f"it is still there, in {fields:,} fields of {_places(left)}; not completed"))
    if alike and not looked:
        fields = sum(each.rows for each in alike)
        errors.append(
            EtlError(
                "ETL-922",
                f"what may be another spelling of it is still there, in {fields:,} fields of {_places(alike)}:"
                " --dry-run proposes what to forget with --also",
            )
        )
    if searched.unread:
        errors.append(EtlError("ETL-923", f"this could not be searched: {'; '.join(searched.unread)}"))
    return [str(error) for error in errors]


def _places(remains: Sequence[Any]) -> str:
    return ", ".join(sorted({f"{each.of}.{each.column}" for each in remains}))


def _more(by: str, values: Sequence[str], searched: Searched | None, config: Path | None) -> str:
    """The command that forgets the other spellings as well; empty if there are none."""
    spellings = [each for each in _spellings(searched) if each.isprintable()]
    if not spellings:
        return ""
    words = ["forget", f"--{by}", values[0], *(word for each in (*values[1:], *spellings) for word in ("--also", each))]
    return shlex.join([*program().split(" "), *words, *(["--config", str(config)] if config else [])])


def _spellings(searched: Searched | None) -> list[str]:
    """Most rows first."""
    counts = searched.spellings if searched else {}
    return sorted(counts, key=lambda each: (-counts[each], each))


def _json(searched: Searched | None) -> dict[str, Any] | None:
    if searched is None:
        return None
    spellings = [{"value": each, "rows": searched.spellings[each]} for each in _spellings(searched)]
    return {**asdict(searched), "remains": [each._asdict() for each in searched.remains], "spellings": spellings}


def _print(hashed: str, receipt: int | None, found: Found, more: str, as_json: bool) -> None:
    if as_json:
        days = [each._asdict() for each in found.days]
        result = {"dry_run": receipt is None, "hash": hashed, "receipt": receipt, "days": days}
        others = {"copies": found.copies, "figures": found.figures, "searched": _json(found.searched)}
        print_json({**result, **found.undated, **others, "failed": found.failed, "command": more or None})
        return
    undated = {**found.undated, **found.copies, "kept figures": found.figures}
    rows: list[tuple[object, ...]] = [*found.days, *((name, None, n, None) for name, n in undated.items() if n)]
    if rows:
        print_rows(("table", "day", "rows in Postgres", "rows in the lake"), rows)
    if receipt is None:
        out.print(f"{'this' if rows else 'nothing'} would be rewritten")
    if found.searched:
        _print_searched(found.searched)
    if receipt is None:
        _print_spellings(found.searched, more)
    elif found.failed or not (found.searched and found.searched.is_proof):
        out.print(f"not completed: run it again; receipt {receipt}, {hashed}")
    else:
        out.print(f"forgotten; receipt {receipt}, {hashed}")


def _print_searched(searched: Searched) -> None:
    period = f", {searched.days:,} days from {searched.first} to {searched.last}" if searched.days else ""
    drafts = f"; not {searched.drafts:,} files that somebody is writing, or died over" if searched.drafts else ""
    _say(
        f"searched every row of {searched.tables:,} tables in the schemas {', '.join(searched.schemas)}, and of"
        f" {searched.files:,} files of the lake{period}, {searched.bytes:,} bytes{drafts}; not Redis, recordings and"
        " backups"
    )
    if not searched.remains:
        _say("nothing of it is there")
        return
    rows: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    for each in searched.remains:
        which = (each.of, each.column, "it" if each.kind == "itself" else "another spelling")
        rows[which] += each.rows
        examples.setdefault(which, f"{each.where}: {each.keys[0]}")
    lines = [(*which, number, _shown(examples[which])) for which, number in rows.most_common(_LINES)]
    print_rows(("where", "column", "has", "rows", "one of them"), lines)
    if len(rows) > _LINES:
        _say(f"and {len(rows) - _LINES:,} more columns: see --json")


def _print_spellings(searched: Searched | None, more: str) -> None:
    if spellings := _spellings(searched):
        counts = searched.spellings if searched else {}
        print_rows(("other spellings", "rows"), [(_shown(each), counts[each]) for each in spellings])
    if more:
        _say("the same last nine digits: if all of these are the same person's,")
        _say(more)


def _say(line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)


def _shown(text: str) -> str:
    """Nothing that a dialler sent may steer the terminal."""
    return text if text.isprintable() else ascii(text)
