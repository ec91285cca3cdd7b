"""What the log says of a batch, and what it never says."""

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

import etl
from etl import logs
from etl.errors import ConfigurationError, EtlError
from etl.inbox.connection import connect
from etl.inbox.producer import push
from etl.jobs.outcomes import What
from etl.lab.proxy import Proxy
from etl.lab.servers.private import PrivateRedis
from tests.lake import export_all, with_lake
from tests.world import CAMPAIGNS, Archive, cdr

ROOT = Path(etl.__file__).parent
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")

NUMBER, CONTACT, PASSWORD = "0799123456", "contact-7231", "hunter2-5519"
SECRETS = (NUMBER, CONTACT, PASSWORD)
TOLD = {"number": NUMBER, "contact_ref": CONTACT}
REFUSED = [
    cdr("large", score=0, **TOLD).replace(b'"score": 0', b'"score": ' + b"9" * 131_073),
    b'{"type": "stats", "payload": {"ref": "%s", "gauges": {"x": %s}}}' % (NUMBER.encode(), b"9" * 131_073),
]
BROKEN = [
    f'{{"type": "cdr", {NUMBER}'.encode(),
    cdr(1, **{**TOLD, "dialed_at": NUMBER + CONTACT}),
    cdr(2, **{**TOLD, "call_time": [NUMBER]}),
    cdr(f"{CONTACT}\0", **TOLD),
    json.dumps([NUMBER, CONTACT]).encode(),
    NUMBER.encode() + b"\xff",
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the program logs, at its usual level."""
    root, ours = logging.getLogger(), logging.getLogger("etl")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    structlog.reset_defaults()


def said(stream: io.StringIO, action: str = "") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in lines if action in ("", line["action"])]


@pytest.fixture
def lines_that_break(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Proxy]]:
    """On the way to Redis and to Postgres."""
    sockets = Path(parse_qs(urlsplit(archive.database_url).query)["host"][0])
    own = sockets.parent / "broken"
    own.mkdir(exist_ok=True)
    here = own / ".s.PGSQL.5432"
    with suppress(FileNotFoundError):
        here.unlink()
    with (
        Proxy(urlsplit(archive.redis_url).port or 0) as to_redis,
        Proxy(sockets / ".s.PGSQL.5432", here) as to_postgres,
    ):
        yield to_redis, to_postgres


@pytest.fixture
def fragile(archive: Archive, lines_that_break: tuple[Proxy, Proxy], tmp_path: Path) -> Iterator[Archive]:
    """The archive behind lines that break, and with passwords in its URLs."""
    administrator: Any = archive.redis
    administrator.execute_command("ACL", "SETUSER", "loader", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    sockets = parse_qs(urlsplit(archive.database_url).query)["host"][0]
    guarded = replace(
        archive,
        redis_url=f"redis://loader:{PASSWORD}@127.0.0.1:{lines_that_break[0].port}/0",
        database_url=archive.database_url.replace("postgres@", f"postgres:{PASSWORD}@").replace(
            sockets.replace("/", "%2F") if "%2F" in archive.database_url else sockets,
            str(Path(sockets).parent / "broken"),
        ),
    )
    guarded._connection = archive._connection
    yield with_lake(guarded, tmp_path / "lake")
    administrator.execute_command("ACL", "DELUSER", "loader")


def is_an_ack(said_to_redis: bytes) -> bool:
    """EVALSHA of a script with six keys and six arguments."""
    return b"*15\r\n$7\r\nEVALSHA" in said_to_redis and b"\r\n$1\r\n6\r\n" in said_to_redis


def test_given_a_batch_with_troubles_then_its_lines_have_its_id_no_data(
    fragile: Archive, lines_that_break: tuple[Proxy, Proxy], stream: io.StringIO
) -> None:
    to_redis, to_postgres = lines_that_break
    fragile.push(cdr("good", **TOLD), cdr("good", **{**TOLD, "number": NUMBER + "1"}), *BROKEN, *REFUSED)
    to_postgres.cut(lambda words: b"COPY" in words)
    to_redis.cut(is_an_ack, lose_command=True)

    books = fragile.load()

    assert (books.claimed, books.dead, books.inserted) == (10, 8, 1)
    assert (to_redis.cuts, to_postgres.cuts) == (1, 1)
    assert {row["reason"] for row in fragile.rows("SELECT reason FROM dead_letters")} >= {"refused_by_database"}
    (batch,) = fragile.rows("SELECT batch_id::text AS id, source_key FROM load_batches")
    of_the_batch = ["outage_began", "outage_ended", "outage_began", "outage_ended", "loaded"]
    assert [line["action"] for line in said(stream)] == of_the_batch
    assert {(line["batch_id"], line["source_key"]) for line in said(stream)} == {(batch["id"], batch["source_key"])}
    assert [secret for secret in SECRETS if secret in stream.getvalue()] == []


def test_given_a_claim_that_cannot_be_written_then_its_return_is_logged(fragile: Archive, stream: io.StringIO) -> None:
    fragile.push(cdr(1, **TOLD))
    fragile._connection.execute("ALTER TABLE cdrs RENAME COLUMN number TO elsewhere")

    with pytest.raises(ConfigurationError) as raised:
        fragile.load()

    (line,) = said(stream, "claim_given_back")
    assert line["batch_id"] in fragile.claims()[0]
    assert [secret for secret in SECRETS if secret in stream.getvalue() + str(raised.value)] == []


@pytest.mark.parametrize(("good", "level", "reason"), [(0, "warning", "not_json"), (1, "info", None)])
def test_given_a_claim_that_is_all_dead_then_it_warns_of_it(
    archive: Archive, stream: io.StringIO, good: int, level: str, reason: str | None
) -> None:
    archive.push(*(cdr(n) for n in range(good)), *(b"junk" for _ in range(20)), b"\xff", b"[]")

    archive.load()

    (line,) = said(stream, "loaded")
    assert (line["level"], line.get("reason"), line["dead"]) == (level, reason, 22)


@pytest.mark.parametrize(("good", "said_so"), [(1, [(2, 3)]), (2, [])])
def test_given_a_claim_that_postgres_refuses_then_that_is_an_error(
    archive: Archive, stream: io.StringIO, good: int, said_so: list[tuple[int, int]]
) -> None:
    archive.push(*REFUSED, *(cdr(n) for n in range(good)))

    archive.load()

    assert [(line["refused"], line["claimed"]) for line in said(stream, "most_refused")] == said_so
    assert [secret for secret in SECRETS if secret in stream.getvalue()] == []


def test_given_a_backlog_then_no_line_has_the_id_of_another_batch(archive: Archive, stream: io.StringIO) -> None:
    """The next claim is fetched by another thread meanwhile."""
    archive.push(*(cdr(n) for n in range(6)))

    archive.load(batch_size=2)

    told = [line["batch_id"] for line in said(stream, "loaded")]
    ledger = archive.rows("SELECT batch_id FROM load_batches ORDER BY committed_at")
    assert told == [str(row["batch_id"]) for row in ledger]
    assert structlog.contextvars.get_contextvars() == {}


def test_given_stores_that_refuse_us_then_no_log_or_error_has_a_password(fragile: Archive, stream: io.StringIO) -> None:
    fragile.push(cdr(1, **TOLD))
    wrong: dict[str, Any] = {
        "redis_url": fragile.redis_url.replace(PASSWORD, f"{PASSWORD}x"),
        "database_url": f"postgresql://nobody:{PASSWORD}@127.0.0.1:1/x",
    }
    for name, url in wrong.items():
        with pytest.raises(EtlError) as raised:
            replace(fragile, **{name: url}).load()
        assert PASSWORD not in str(raised.value)
    export_all(fragile)
    assert [secret for secret in SECRETS if secret in stream.getvalue()] == []


def test_given_a_command_that_redis_lacks_then_its_arguments_stay_unlogged(tmp_path: Path) -> None:
    """It says: unknown command, with args beginning with …"""
    with (
        PrivateRedis(tmp_path / "redis", {"rename-command": 'LPUSH ""'}) as server,
        connect(server.url) as client,
        pytest.raises(ConfigurationError, match="unknown command") as raised,
    ):
        push(client, CAMPAIGNS, [cdr(1, **TOLD)])
    assert [secret for secret in SECRETS if secret in str(raised.value)] == []


# -- the actions


def actions() -> set[str]:
    """Every action in the source. Each is a literal; but for what became of a day, which is one of a few. Those of
    outages are given to the one place that logs them."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            if ast.unparse(call.func) == "OutageLog":
                found |= {ast.literal_eval(action) for action in call.args[1:3]}
            if not _is_log(call.func):
                continue
            action = call.args[0]
            if ast.unparse(action) == "'day_' + outcome.what":
                found |= {f"day_{what}" for what in get_args(What)}
            else:
                assert isinstance(action, ast.Constant), f"{path}:{call.lineno}: an action is a fixed text"
                found.add(str(action.value))
    return found


def _is_log(function: ast.expr) -> bool:
    """`log.info`, `self._log.warning`, and what was chosen from them by a name `level`."""
    if isinstance(function, ast.Name):
        return function.id == "level"
    if not (isinstance(function, ast.Attribute) and function.attr in LEVELS):
        return False
    return ast.unparse(function.value) in ("log", "self._log", "logs.get()", "logger")


def test_every_action_is_fixed_and_documented_and_no_other_is() -> None:
    text = (ROOT.parent / "ops/LOGS.md").read_text()
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]

    assert {name for cell in table for name in re.findall("`([a-z_]+)`", cell)} - {"library"} == actions()
