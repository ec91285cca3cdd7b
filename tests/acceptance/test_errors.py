"""Whatever is wrong: one clear line on stderr, the right exit code, no traceback, and never a password."""

import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import etl
import etl.cli
from etl.lab.servers.private import PrivateRedis
from tests.command_line import answered
from tests.faults.worker import Worker
from tests.world import NAMES_FILE, Archive, cdr

PASSWORD = "hunter2"
DONE, FAILED, MISUSED = 0, 1, 2
BEGINNING = re.compile(r"etl: ETL-\d{3}: ")


def assert_one_line(result: "subprocess.CompletedProcess[str]", code: int, *says: str) -> None:
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert BEGINNING.match(result.stderr)
    assert result.stderr.count("\n") == 1, result.stderr
    for text in says:
        assert text in result.stderr
    assert PASSWORD not in result.stderr


# -- stores that are away, or don't want us


@pytest.mark.parametrize("command", [("run", "--json"), ("simulate",)], ids=" ".join)
def test_given_no_redis_then_one_line_says_so(archive: Archive, command: tuple[str, ...]) -> None:
    result = archive.run(*command, ETL_REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:1/0")

    assert_one_line(result, FAILED, "Redis", "127.0.0.1:1", "refused")


@pytest.mark.parametrize("command", [("run",), ("db", "upgrade")], ids=" ".join)
def test_given_no_postgres_then_one_line_says_so(archive: Archive, command: tuple[str, ...]) -> None:
    result = archive.run(*command, ETL_DATABASE_URL=f"postgres://etl:{PASSWORD}@127.0.0.1:1/etl")

    assert_one_line(result, FAILED, "Postgres", '"127.0.0.1", port 1', "refused")


@pytest.fixture
def guarded_redis(session_folder: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(session_folder / "guarded", {"requirepass": "correct"}) as server:
        yield server


def test_given_a_wrong_redis_password_then_one_line_says_so_and_hides_it(
    archive: Archive, guarded_redis: PrivateRedis
) -> None:
    url = guarded_redis.url.replace("redis://", f"redis://:{PASSWORD}@")

    assert_one_line(archive.run("run", ETL_REDIS_URL=url), MISUSED, "Redis refuses us")


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("ETL_DATABASE_URL", "postgres://etl:hunter2@127.0.0.1:1/etl?sslmode=nonsense"),
        ("ETL_DATABASE_URL", "postgres://etl@127.0.0.1:1/etl?password=hunter2&nonsense=1"),
        ("ETL_REDIS_URL", "redis://127.0.0.1:1/0?password=hunter2&nonsense=1"),
        ("ETL_REDIS_URL", "redis+sentinel://:hunter2@127.0.0.1:1/mymaster/0?sentinel_password=hunter2"),
    ],
)
def test_given_an_url_that_fails_later_then_its_password_is_nowhere(archive: Archive, variable: str, url: str) -> None:
    result = archive.run("run", **{variable: url})

    assert result.returncode in (FAILED, MISUSED)
    assert_one_line(result, result.returncode)


def test_given_passwords_and_a_loader_at_work_then_its_log_keeps_them(
    archive: Archive, guarded_redis: PrivateRedis, tmp_path: Path
) -> None:
    with Worker(
        archive,
        tmp_path / "log",
        ETL_REDIS_URL=guarded_redis.url.replace("redis://", "redis://:correct@"),
        ETL_DATABASE_URL=archive.database_url.replace("postgres@", f"postgres:{PASSWORD}@"),
    ) as loader:
        loader.wait_for("started")
        guarded_redis.kill()
        loader.wait_for("outage_began")
        assert loader.stop() == DONE

    assert ":***@" in loader.log(), "the log does name the server"
    for password in ("correct", PASSWORD):
        assert password not in loader.log()


# -- settings and usage


def test_given_wrong_settings_then_each_is_named_and_no_value_is_shown(archive: Archive, tmp_path: Path) -> None:
    config = tmp_path / "etl.toml"
    config.write_text(f'batch_size = "{PASSWORD}"\nlinger = 3\n')
    wrong = {
        "ETL_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1/zero",
        "ETL_DATABASE_URL": f"postgres://etl:{PASSWORD}/@127.0.0.1/etl",
        "ETL_LEASE_SECONDS": "1",
        "ETL_BATCHSIZE": "10",
        "ETL_SOURCES": f'[{{"key": "x", "password": "{PASSWORD}"}}]',
    }

    result = answered(archive.environment(**wrong), "run", "--config", str(config))

    assert (result.returncode, result.stdout) == (MISUSED, "")
    lines = [line.split() for line in result.stderr.splitlines()]
    assert all(BEGINNING.match(line) for line in result.stderr.splitlines())
    assert {line[2].partition("[")[0] for line in lines} == {"linger", "batch_size", *wrong}
    assert "ETL_BATCHSIZE is unknown: did you mean ETL_BATCH_SIZE?" in result.stderr
    assert PASSWORD not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--fast"), "--fast"),
        (("run", "--workers", "0"), "--workers"),
        (("run", "now"), "now"),
        (("walk",), "walk"),
        (("db", "drop"), "drop"),
    ],
    ids=" ".join,
)
def test_given_a_wrong_command_line_then_one_line_says_so(
    archive: Archive, arguments: tuple[str, ...], says: str
) -> None:
    assert_one_line(answered(archive.environment(), *arguments), MISUSED, says, "--help")


@pytest.mark.parametrize(
    "command",
    [(), ("run",), ("db",), ("db", "upgrade"), ("db", "current"), ("db", "check"), ("simulate",), ("demo",)],
    ids=" ".join,
)
def test_given_help_then_it_has_an_example(archive: Archive, command: tuple[str, ...]) -> None:
    result = answered(archive.environment(), *command, "--help")

    assert (result.returncode, result.stderr) == (DONE, "")
    assert "Example" in result.stdout
    assert " ".join(("etl", *command)) in result.stdout.partition("Example")[2]


def test_given_no_command_then_the_help_is_shown(archive: Archive) -> None:
    result = answered(archive.environment())

    assert result.returncode == MISUSED
    assert "Commands" in result.stdout + result.stderr
    assert "etl: " not in result.stderr


def test_given_version_then_it_is_printed(archive: Archive) -> None:
    result = answered(archive.environment(), "--version")

    assert (result.returncode, result.stdout, result.stderr) == (DONE, f"etl {etl.__version__}\n", "")


# -- every command


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Each as one would type it, with what it can't do without."""
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from commands(each, *path, name)
    else:
        yield (*path, *NEEDED.get(" ".join(path), ()))


NEEDED = {
    "files": ("written",),
    "forget": ("--number", "1", "--dry-run"),
    "restore": ("--dataset", "cdrs", "--day", "2015-02-19"),
    "prune": ("--keep-days", "1"),
    "report": ("campaign",),
    "simulate": ("--cdrs", "1"),
    "dead show": ("1",),
    "names import": (str(NAMES_FILE),),
    "dead discard": ("1", "--because", "x"),
    "dead replay": ("1",),
}
COMMANDS = sorted(commands(typer.main.get_command(etl.cli.registered())))
WITHOUT_SETTINGS = ("files", "demo", "selftest")
CONFIGURED = [command for command in COMMANDS if command[0] not in WITHOUT_SETTINGS]
# `etl listen` waits for stores that are away, and `etl serve` says so on its pages.
PATIENT = ("listen", "serve")


@pytest.fixture
def in_process() -> Iterator[None]:
    """What a command sets for the whole process is set back."""
    root, ours = logging.getLogger(), logging.getLogger("etl")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    signals = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    for each, handler in signals.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_given_an_unknown_option_then_its_error_has_the_code_of_usage(command: tuple[str, ...]) -> None:
    assert_one_line(answered({}, *command, "--no-such-option"), MISUSED, "etl: ETL-001: ", "--no-such-option")


@pytest.mark.parametrize("command", CONFIGURED, ids=" ".join)
def test_given_wrong_settings_then_its_error_has_their_code(command: tuple[str, ...], in_process: None) -> None:
    assert_one_line(answered({"ETL_LEASE_SECONDS": "1"}, *command), MISUSED, "etl: ETL-102: ETL_LEASE_SECONDS ")
    assert_one_line(answered({}, *command, "--config", "none.toml"), MISUSED, "etl: ETL-108: ", "none.toml")


@pytest.mark.parametrize("command", [each for each in CONFIGURED if each[0] not in PATIENT], ids=" ".join)
def test_given_a_store_that_is_away_or_refuses_then_errors_have_codes(
    archive: Archive, guarded_redis: PrivateRedis, in_process: None, tmp_path: Path, command: tuple[str, ...]
) -> None:
    faults = {
        "ETL_REDIS_URL": ("redis://127.0.0.1:1/0", guarded_redis.url.replace("redis://", f"redis://:{PASSWORD}@")),
        "ETL_DATABASE_URL": (
            f"postgresql://etl:{PASSWORD}@127.0.0.1:1/etl",
            archive.database_url.replace("postgres@", f"nobody:{PASSWORD}@"),
        ),
    }
    own = {"ETL_EXPORT_URL": str(tmp_path), "ETL_FORGET_KEY": "k" * 32, "ETL_LAKE_TABLE": "iceberg"}
    for variable, urls in faults.items():
        for url in urls:
            result = answered(archive.environment(**own, **{variable: url}), *command)

            assert [line for line in result.stderr.splitlines() if not BEGINNING.match(line)] == []
            assert result.returncode in (DONE, FAILED, MISUSED)
            assert result.returncode == DONE or result.stderr or re.search(r"ETL-(201|203|301)", result.stdout)
            assert PASSWORD not in result.stderr + result.stdout


# -- output that nobody takes


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("run", "| true"),
        ("run --json", "> /dev/full"),
        ("--help", "| true"),
        ("--help", "> /dev/full"),
    ],
)
def test_given_an_output_that_fails_then_there_is_no_traceback(archive: Archive, command: str, output: str) -> None:
    archive.push(cdr(1))

    result = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m etl.cli {command} {output}'],
        env=archive.environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    if output == "| true":
        assert result.stderr == ""
    else:
        assert (result.returncode, result.stderr) == (FAILED, "etl: ETL-002: [Errno 28] No space left on device\n")
    if command.startswith("run"):
        assert archive.value("SELECT count(*) FROM cdrs") == 1, "it's loaded, whoever reads of it"
