"""`etl export`, `verify`, `restore`, `prune` and `reconcile` as operators and cron run them."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl.lake import layout
from tests.command_line import answered
from tests.lake import (
    CALLS,
    DAY,
    SPOOL,
    assert_comes_right,
    export,
    export_all,
    file,
    folder,
    heard,
    in_file,
    load,
    manifest_file,
    on,
    place,
    prune,
    revision_file,
    revisions,
    with_lake,
)
from tests.world import Archive, cdr

DONE, FAILED, MISUSED = 0, 1, 2
THE_DAY_AFTER = DAY + timedelta(days=1)
EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'
PASSWORD = "hunter2"

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def lake(archive: Archive, tmp_path: Path) -> Archive:
    """An archive with 20 CDRs of one day, and a folder for its lake that isn't there yet."""
    load(with_lake(archive, tmp_path / "lake"), *(cdr(n) for n in range(20)))
    return archive


@pytest.fixture
def exported(lake: Archive) -> Archive:
    """The same, exported."""
    export(lake)
    return lake


def days(result: Result, code: int = DONE) -> list[dict[str, Any]]:
    """What a command with --json says became of each."""
    assert result.returncode == code, result.stderr
    assert result.stdout.count("\n") == 1
    told: list[dict[str, Any]] = json.loads(result.stdout)["days"]
    return told


def outcomes(result: Result, code: int = DONE) -> list[tuple[str, str, str]]:
    return [(each["dataset"], each["day"], each["what"]) for each in days(result, code)]


def cells(result: Result) -> list[list[str]]:
    """Of the table that was printed."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def log(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stderr.splitlines()]


def assert_one_line(result: Result, code: int, *says: str) -> None:
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.startswith("etl: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for text in says:
        assert text in result.stderr


def assert_day_failed(result: Result, *says: str, day: date = DAY) -> None:
    """A line in the log and one in the table name the day and say why."""
    assert result.returncode == FAILED, result.stderr
    (told,) = [line for line in log(result) if line["action"] == "day_failed"]
    assert (told["level"], told["dataset"], told["day"]) == ("error", "cdrs", str(day))
    for text in says:
        assert text in told["why"]
    assert "Traceback" not in result.stderr
    assert ["cdrs", str(day), "failed"] in [row[:3] for row in cells(result)]
    assert told["why"] in result.stdout


# -- export


def test_given_missed_nights_then_one_run_catches_up_and_a_second_is_idle(lake: Archive) -> None:
    load(lake, on(1, 1), on(1, 2), EVENT)  # the event is of today
    load(lake, heard(1), key=SPOOL)

    first = lake.run("export")
    second = lake.run("export")

    assert first.returncode == DONE
    expected = [["cdrs", str(DAY), "20"], ["cdrs", str(THE_DAY_AFTER), "2"], ["audit_events", str(DAY), "1"]]
    assert [[row[0], row[1], row[4]] for row in cells(first)] == expected
    assert [row[2:4] for row in cells(first)] == [["exported", "1"]] * 3
    told = [
        [line["dataset"], line["day"], str(line["rows"])] for line in log(first) if line["action"] == "day_exported"
    ]
    assert told == expected
    assert len(log(first)) == 3, "one line a day"
    assert (second.returncode, second.stdout, second.stderr) == (DONE, "nothing to do\n", "")


def test_given_a_terminal_then_export_prints_its_table_and_no_log(lake: Archive) -> None:
    load(lake, cdr(1), on(1, 1))
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as ours:
        done = subprocess.run(
            [sys.executable, "-m", "etl.cli", "export", "--day", str(DAY)],
            env=lake.environment(TERM="dumb"), stdout=terminal, stderr=terminal, timeout=200, check=False,
        )  # fmt: skip
        os.close(terminal)
        seen = ours.read(65_536).decode()

    assert done.returncode == DONE, seen
    assert "exported" in seen
    assert "day_exported" not in seen
    assert '{"' not in seen


def test_given_choices_of_dataset_and_days_then_only_those_are_exported(lake: Archive) -> None:
    load(lake, on(1, 1), on(2, 1), on(3, 1))
    load(lake, heard(1), heard(2, THE_DAY_AFTER), key=SPOOL)
    period = ("--from", str(THE_DAY_AFTER), "--to", str(DAY + timedelta(days=2)))

    assert outcomes(lake.run("export", "--json", "--dataset", "audit_events", "--day", str(DAY))) == [
        ("audit_events", str(DAY), "exported")
    ]
    assert outcomes(lake.run("export", "--json", *period)) == [
        ("cdrs", "2015-02-20", "exported"),
        ("cdrs", "2015-02-21", "exported"),
        ("audit_events", "2015-02-20", "exported"),
    ]
    assert outcomes(lake.run("export", "--json", "--dry-run")) == [
        ("cdrs", str(DAY), "due"),
        ("cdrs", "2015-02-22", "due"),
    ]
    assert not file(lake).exists()


def test_given_force_then_an_unchanged_day_is_rewritten_the_same(exported: Archive) -> None:
    before = file(exported).read_bytes()

    (plain,) = days(exported.run("export", "--day", str(DAY), "--json"))
    (forced,) = days(exported.run("export", "--day", str(DAY), "--json", "--force"))

    assert (plain["what"], plain["why"]) == ("unchanged", "")
    assert (forced["what"], forced["why"]) == ("unchanged", "the same bytes again")
    assert file(exported).read_bytes() == before


def test_given_an_open_day_then_it_is_refused_and_force_exports_it(lake: Archive) -> None:
    load(lake, EVENT)
    today = str(lake.value("SELECT captured_on FROM audit_events"))

    assert_one_line(lake.run("export", "--day", today), MISUSED, today, "isn't closed", "--force")
    assert outcomes(lake.run("export", "--day", today, "--force", "--json")) == [("audit_events", today, "exported")]


def test_given_a_ledger_with_more_rows_then_the_day_fails_unless_forced(
    lake: Archive,
) -> None:
    lake.rows("DELETE FROM cdrs WHERE call_ref = '7' RETURNING 1")

    assert_day_failed(lake.run("export"), "holds 19 rows", "ledger says 20", "etl restore", "--force")
    assert not file(lake).exists()

    assert outcomes(lake.run("export", "--day", str(DAY), "--force", "--json")) == [("cdrs", str(DAY), "exported")]
    assert len(in_file(lake)) == 19


# -- verify


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def edit_manifest(path: Path) -> None:
    path.write_text(path.read_text().replace('"rows": 20', '"rows": 21'))


def break_manifest(path: Path) -> None:
    path.write_text('{"rows"')


def write_something_else(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"not Parquet")


def test_given_files_that_somebody_harmed_then_verify_says_what_and_where(lake: Archive) -> None:
    harms: list[tuple[Callable[[Archive, date], Path], Callable[[Path], None], str]] = [
        (revision_file, truncate, "file: bytes"),
        (revision_file, edit, "file: sha256"),
        (revision_file, write_something_else, "file: sha256"),
        (manifest_file, edit_manifest, "manifest: rows"),
        (manifest_file, break_manifest, "file"),
        (manifest_file, Path.unlink, "manifest"),
        (file, write_something_else, "part-0.parquet"),
    ]
    for n in range(1, len(harms) + 2):
        load(lake, *(on(n, call_ref) for call_ref in range(20)))
    export_all(lake)
    for n, (which, harm, _) in enumerate(harms, 1):
        harm(which(lake, DAY + timedelta(days=n)))
    for which in (revision_file, file):
        which(lake, DAY + timedelta(days=len(harms) + 1)).unlink()

    result = lake.run("verify")

    assert (result.returncode, result.stderr) == (FAILED, "")
    found = {(row[0], row[1], row[2]) for row in cells(result)}
    expected = {("cdrs", str(DAY + timedelta(days=n)), what) for n, (_, _, what) in enumerate(harms, 1)}
    assert expected | {("cdrs", str(DAY + timedelta(days=len(harms) + 1)), "file")} <= found
    assert str(DAY) not in {day for _, day, _ in found}, "that one is in order"


def test_given_copies_that_are_not_current_then_verify_renews_them(lake: Archive) -> None:
    for n in (1, 2):
        load(lake, *(on(n, call_ref) for call_ref in range(20)))
    export_all(lake)
    older, missing, copied = (DAY + timedelta(days=n) for n in range(3))
    load(lake, cdr("late"))
    export_all(lake)
    file(lake, older).unlink()
    file(lake, older).hardlink_to(revisions(lake, older)[0])  # by an exporter that woke up late
    file(lake, missing).unlink()
    file(lake, copied).unlink()
    shutil.copyfile(revision_file(lake, copied), file(lake, copied))  # a backup knows no links

    first, second = lake.run("verify", "--json"), lake.run("verify", "--json")

    assert [result.returncode for result in (first, second)] == [DONE, DONE]
    said = json.loads(first.stdout)
    assert said["differences"] == []
    assert [(each["day"], each["what"], each["found"]) for each in said["notes"]] == [
        (str(older), "part-0.parquet", "an older revision: renewed"),
        (str(missing), "part-0.parquet", "missing: renewed"),
    ]
    assert json.loads(second.stdout) == {"verified": 3, "differences": [], "notes": []}
    assert len(in_file(lake, older)) == 21
    assert_comes_right(lake)


def test_given_a_revision_that_is_gone_then_its_copy_becomes_it_again(exported: Archive) -> None:
    content = file(exported).read_bytes()
    revision_file(exported).unlink()

    assert exported.run("verify", "--deep").returncode == DONE

    assert revision_file(exported).read_bytes() == content
    assert_comes_right(exported)


def test_given_a_day_never_exported_then_verify_and_restore_say_so(lake: Archive) -> None:
    for command in ("verify", "restore"):
        assert_one_line(lake.run(command, "--day", str(DAY)), FAILED, f"{DAY} was never exported")


def test_given_files_in_order_then_verify_says_how_many(exported: Archive) -> None:
    shallow, deep = exported.run("verify"), exported.run("verify", "--deep", "--json")

    assert (shallow.returncode, shallow.stdout, shallow.stderr) == (DONE, "1 files are what the books say\n", "")
    assert (deep.returncode, json.loads(deep.stdout)) == (
        DONE,
        {"verified": 1, "differences": [], "notes": []},
    )


def test_given_rows_changed_in_postgres_then_only_verify_deep_finds_them(
    exported: Archive,
) -> None:
    exported.rows("UPDATE cdrs SET end_reason = 'edited' WHERE call_ref = '7' RETURNING 1")
    exported.rows("DELETE FROM cdrs WHERE call_ref = '8' RETURNING 1")
    exported.rows("UPDATE cdrs SET call_ref = 'x' WHERE call_ref = '9' RETURNING 1")

    assert exported.run("verify").returncode == DONE
    result = exported.run("verify", "--deep")

    assert result.returncode == FAILED
    assert sorted(row[2:] for row in cells(result)) == [
        ["row dialler 7 0: end_reason", "edited", "callee_hungup"],
        ["row dialler 8 0", "not in Postgres", "in the file"],
        ["row dialler 9 0", "not in Postgres", "in the file"],
        ["row dialler x 0", "in Postgres", "not in the file"],
    ]


# -- restore


def test_given_a_dropped_day_then_restore_brings_it_back_and_may_be_rerun(exported: Archive) -> None:
    before = exported.rows("SELECT * FROM cdrs ORDER BY call_ref")
    prune(exported)

    first, second = (exported.run("restore", "--day", str(DAY), "--json") for _ in range(2))

    assert [(day["what"], day["rows"]) for day in days(first)] == [("restored", 20)]
    assert [(day["what"], day["rows"], day["why"]) for day in days(second)] == [("restored", 0, "nothing was missing")]
    assert exported.rows("SELECT * FROM cdrs ORDER BY call_ref") == before
    exported.assert_books_balance()


def test_given_a_schema_with_an_odd_name_then_restore_makes_a_table_in_it(exported: Archive) -> None:
    schema = 'Nov "26"; DROP'
    prune(exported)

    first, second = (exported.run("restore", "--day", str(DAY), "--into", schema, "--json") for _ in range(2))

    assert [day["rows"] for day in days(first) + days(second)] == [20, 0]
    assert exported.value('SELECT count(*) FROM "Nov ""26""; DROP".cdrs') == 20
    assert exported.value("SELECT count(*) FROM cdrs") == 0


def test_given_prove_then_nothing_stays_of_it(exported: Archive) -> None:
    # A session that ends has its temporary tables yet.
    tables = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relpersistence <> 't' ORDER BY 1"
    prune(exported)
    before = exported.rows(tables)

    (proved,) = days(exported.run("restore", "--day", str(DAY), "--prove", "--json"))
    assert (proved["what"], proved["rows"]) == ("proved", 20)
    assert exported.rows(tables) == before

    edit(revision_file(exported))
    result = exported.run("restore", "--day", str(DAY), "--prove")
    assert_day_failed(result, str(revision_file(exported)), "isn't revision 1 any more")
    assert exported.rows(tables) == before


# -- prune


def test_given_all_kinds_of_days_then_prune_drops_only_the_proved_ones(
    exported: Archive,
) -> None:
    load(exported, *(on(n, 1) for n in range(1, 4)))
    export_all(exported)
    load(exported, on(1, 2), on(4, 1))
    edit(revision_file(exported, DAY + timedelta(days=2)))
    exported.rows("UPDATE cdrs SET number = 'edited' WHERE dialed_on = %s RETURNING 1", DAY + timedelta(days=3))

    foreseen = exported.run("prune", "--keep-days", "1", "--dry-run", "--json")
    assert exported.value("SELECT count(DISTINCT dialed_on) FROM cdrs") == 5
    result = exported.run("prune", "--keep-days", "1", "--json")

    expected = [
        ("2015-02-19", "dropped", ""),
        ("2015-02-20", "kept", "changed since its last export"),
        ("2015-02-21", "failed", "the file isn't what Postgres holds"),
        ("2015-02-22", "failed", "the file isn't what Postgres holds"),
        ("2015-02-23", "kept", "never exported"),
    ]
    assert [(day["day"], day["what"], day["why"]) for day in days(result, FAILED)] == expected
    changed = {day["day"]: [each["what"] for each in day["differences"]] for day in days(result, FAILED)}
    assert changed["2015-02-21"] == ["file: sha256"]
    assert changed["2015-02-22"] == ["row dialler 1 0: number"]
    assert [(day["day"], day["what"]) for day in days(foreseen)] == [
        (day, what if what == "kept" else "due") for day, what, _ in expected
    ]
    assert exported.value("SELECT count(*) FROM cdrs WHERE dialed_on = %s", DAY) == 0
    assert exported.value("SELECT count(DISTINCT dialed_on) FROM cdrs") == 4


def test_given_a_day_that_is_young_then_prune_has_nothing_to_do(lake: Archive) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for table in ("load_batch_days", "cdrs"):
        lake.rows(f"DELETE FROM {table} RETURNING 1")
    load(lake, cdr("young", dialed_at=int(yesterday.timestamp())))
    export_all(lake)

    result = lake.run("prune", "--keep-days", "2")

    assert (result.returncode, result.stdout) == (DONE, "nothing to do\n")
    assert lake.value("SELECT count(*) FROM cdrs WHERE call_ref = 'young'") == 1


# -- reconcile


def test_given_all_kinds_of_days_then_reconcile_compares_their_books(exported: Archive) -> None:
    load(exported, on(1, 1), on(2, 1))
    export(exported, THE_DAY_AFTER)
    prune(exported)
    load(exported, on(1, 2))

    result = exported.run("reconcile")

    assert (result.returncode, result.stderr) == (DONE, "")
    assert cells(result) == [
        ["cdrs", "2015-02-19", "20", "", "20", "", "in the lake only", ""],
        ["cdrs", "2015-02-20", "2", "2", "1", "0", "to export", "changed since its last export"],
        ["cdrs", "2015-02-21", "1", "1", "", "0", "not exported", ""],
    ]

    exported.rows("DELETE FROM cdrs WHERE dialed_on = '2015-02-21' RETURNING 1")
    truncate(revision_file(exported))
    result = exported.run("reconcile", "--json")

    verdicts = [(day["day"], day["verdict"]) for day in days(result, FAILED)]
    assert verdicts == [("2015-02-19", "unreadable"), ("2015-02-20", "to export"), ("2015-02-21", "unequal")]
    result = exported.run("reconcile", "--from", "2015-02-20", "--to", "2015-02-20", "--json")
    assert [day["day"] for day in days(result)] == ["2015-02-20"]


# -- usage


@pytest.mark.parametrize("command", ["export", "verify", "restore", "prune", "reconcile"])
def test_given_help_then_it_has_an_example(archive: Archive, command: str) -> None:
    result = answered(archive.environment(), command, "--help")

    assert (result.returncode, result.stderr) == (DONE, "")
    assert f"etl {command}" in result.stdout.partition("Example")[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("export --day yesterday", "'yesterday'"),
        ("export --day 2015-02-19 --from 2015-02-19", "--from"),
        ("export --from 2015-02-20 --to 2015-02-19", "--to"),
        ("export --dataset calls", "calls"),
        ("restore", "--day"),
        ("restore --day 2015-02-19 --into x --prove", "--prove"),
        ("prune", "--keep-days"),
        ("prune --keep-days 0", "--keep-days"),
    ],
)
def test_given_a_wrong_command_line_then_one_line_says_so(archive: Archive, arguments: str, says: str) -> None:
    assert_one_line(answered(archive.environment(), *arguments.split()), MISUSED, says, "--help")


# -- trouble


@pytest.mark.parametrize("command", ["export", "restore --day 2015-02-19"])
def test_given_no_schema_then_one_line_says_how_to_make_it(
    archive: Archive, empty_database_url: str, command: str
) -> None:
    result = archive.run(*command.split(), ETL_DATABASE_URL=empty_database_url)

    assert_one_line(result, MISUSED, "no schema", "`etl db upgrade`")


def test_given_no_postgres_then_one_line_says_so(archive: Archive) -> None:
    result = archive.run("export", ETL_DATABASE_URL=f"postgres://etl:{PASSWORD}@127.0.0.1:1/etl")

    assert_one_line(result, FAILED, "Postgres", "refused")
    assert PASSWORD not in result.stderr


def of_revisions(archive: Archive) -> Path:
    """The folder of the day's."""
    return folder(archive) / layout.revisions(CALLS, DAY)


@pytest.mark.parametrize("arguments", ["export", f"export --day {DAY}"])
@pytest.mark.parametrize("where", [folder, place, of_revisions])
def test_given_a_file_in_a_folders_place_then_day_and_file_are_named(
    lake: Archive, where: Callable[[Archive], Path], arguments: str
) -> None:
    in_the_way = where(lake)
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("mine")

    result = lake.run(*arguments.split())

    assert result.returncode == FAILED
    for text in (str(DAY), str(in_the_way), "ot a directory"):
        assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert in_the_way.read_text() == "mine"
    in_the_way.unlink()
    assert_comes_right(lake)
    assert len(in_file(lake)) == 20


@pytest.mark.parametrize("umask", ["000", "022", "077", "277"])
@pytest.mark.parametrize(("mode", "of_folders"), [("0640", 0o750), ("0600", 0o700), ("0664", 0o775)])
def test_given_any_umask_then_the_lake_has_the_modes_of_the_settings(
    lake: Archive, umask: str, mode: str, of_folders: int
) -> None:
    more = {} if mode == "0640" else {"ETL_LAKE_FILE_MODE": mode}

    result = under(lake, f"umask {umask}", **more)

    assert result.returncode == DONE, result.stderr
    paths = [folder(lake), *folder(lake).rglob("*")]
    assert {path.stat().st_mode & 0o7777 for path in paths if path.is_file()} == {int(mode, 8)}
    assert {path.stat().st_mode & 0o7777 for path in paths if path.is_dir()} == {of_folders}
    assert {path.name for path in paths} >= {"part-0.parquet", revision_file(lake).name, manifest_file(lake).name}


def under(archive: Archive, limit: str, **environment: str) -> Result:
    """`etl export` by a shell that set this before."""
    return subprocess.run(
        ["sh", "-c", f'{limit}; exec "{sys.executable}" -m etl.cli export'],
        env=archive.environment(**environment),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def read_only(exported: Archive) -> Iterator[Archive]:
    """The lake's folder, where nobody may write: for root that takes a mount of its own."""
    root = folder(exported)
    if os.geteuid() != 0:
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        yield exported
        for path in folders:
            path.chmod(0o755)
        return
    mount("--bind", str(root), str(root))
    try:
        mount("-o", "remount,ro,bind", str(root))
        yield exported
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_given_a_read_only_folder_then_the_day_fails_its_revision_stays(read_only: Archive) -> None:
    load(read_only, cdr("late"))
    before = file(read_only).read_bytes()

    assert_day_failed(read_only.run("export"), str(of_revisions(read_only)), "ermi" if os.geteuid() else "Read-only")

    assert file(read_only).read_bytes() == before
    assert read_only.run("verify").returncode == DONE


@pytest.fixture
def small(archive: Archive, tmp_path: Path) -> Iterator[Archive]:
    """A lake on a disk of 256 KiB."""
    root = tmp_path / "small"
    root.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", str(root))
    try:
        yield with_lake(archive, root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def mount(*arguments: str) -> None:
    result = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"no mount here: {result.stderr.strip()}")


def incompressible(first: int, last: int) -> list[bytes]:
    return [cdr(n, recording_url=os.urandom(100).hex()) for n in range(first, last)]


def test_given_a_full_disk_then_the_revision_stays_and_no_draft_is_left(small: Archive) -> None:
    load(small, *incompressible(0, 500))
    export(small)
    before = file(small).read_bytes()
    load(small, *incompressible(500, 4_000))

    result = small.run("export")

    assert_day_failed(result, "No space left on device")
    assert_only_the_first_revision_is_there(small, before)
    assert small.run("verify").returncode == DONE


def assert_only_the_first_revision_is_there(archive: Archive, content: bytes) -> None:
    assert file(archive).read_bytes() == revision_file(archive).read_bytes() == content
    assert [path.name for path in place(archive).iterdir()] == ["part-0.parquet"]
    assert {*of_revisions(archive).iterdir()} == {revision_file(archive), manifest_file(archive)}
    assert revision_file(archive).name.startswith("r00001-")


def test_given_a_file_size_limit_then_the_day_fails_its_revision_stays(lake: Archive) -> None:
    export(lake)
    before = file(lake).read_bytes()
    load(lake, *incompressible(100, 2_000))

    result = under(lake, "ulimit -f 128")  # 64 KiB for every file that is written

    assert_day_failed(result, "File too large")
    assert_only_the_first_revision_is_there(lake, before)
