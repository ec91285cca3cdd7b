"""What tests need to say "given this on the lists, if it's loaded, then that is in Postgres" in a few words."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import psycopg
import redis
from psycopg.rows import dict_row
from pydantic import SecretStr

from etl.app.database import upgrade
from etl.app.load import drain
from etl.errors import EtlError
from etl.settings import Settings, SourceSettings
from etl.store.ledger import Books
from tests import forked

NAMES_FILE = Path(__file__).parent / "fixtures/names.csv"

CAMPAIGNS = "enigma:notifications:campaigns"
CDRS = "enigma:notifications:cdrs"
CLICK2DIAL = "enigma:notifications:cdr"

SOURCES = (
    SourceSettings(key=CAMPAIGNS, source="dialler"),
    SourceSettings(key=CDRS, source="dialler"),
    SourceSettings(key=CLICK2DIAL, source="click2dial"),
)

# A setting: the calls of the documents are of 2013 to 2015.
OF_ANY_DAY = 0
DIALED_AT = 1_424_379_960  # 2015-02-19T21:06:00Z, as in the documents
RECENTLY = 1_748_779_800  # 2025-06-01T12:10:00Z: for those who have ETL_OLDEST_DAYS as it is


def cdr(call_ref: object, **fields: object) -> bytes:
    """A client CDR (dialect A) as the dialler writes it, all documented fields set."""
    payload = {
        "extension": "1002",
        "number": "0741484437",
        "dial_number": "0126543210",
        "recording_url": "ftp://pbx/2015/02/19/88.wav",
        "call_ref": call_ref,
        "contact_ref": "M0042",
        "dialed_at": DIALED_AT,
        "call_time": 41,
        "end_reason": "callee_hungup",
        "end_code": 16,
        "call_dir": "outbound",
        "ref": "2040",
    }
    return json.dumps({"type": "cdr", "payload": {**payload, **fields}}).encode()


def api_cdr(call_ref: object, **fields: object) -> bytes:
    """An API CDR (dialect B) of the same call."""
    payload = {
        "call_ref": call_ref,
        "uuid": "2b1cc7c0-9a6f-4e2e-8f51-5a3f7e0b2a11",
        "agent": "1002",
        "recording_location": "ftp://pbx/2015/02/19/88.wav",
        "dialed_at": "2015-02-19 23:06:00 +0200",
        "callee_answered_at": "2015-02-19 23:06:12 +0200",
        "agent_answered_at": "2015-02-19 23:06:15 +0200",
        "ended_at": "2015-02-19 23:06:56 +0200",
        "end_reason": "callee_hungup",
        "call_dir": "outbound",
    }
    return json.dumps({"type": "call_update", "payload": {**payload, **fields}}).encode()


def migrate(database_url: str) -> None:
    upgrade(Settings(database_url=SecretStr(database_url)))


def left(client: Any, **options: Any) -> list[bytes]:
    """Every key but those that note when the last claim of a list was made, what was acknowledged, and who heard."""
    return [
        key
        for key in client.keys(**options)
        if not re.search(rb":(last|acked|kept|kept:[0-9a-f-]{36}|listener:session)$", key)
    ]


# Whoever runs the tests says who decodes: `ETL_DECODER=python make test`. An archive of 0.1 doesn't know the setting.
DECODER: Any = os.environ.get("ETL_DECODER", "auto")
_DECODER = {"decoder": DECODER} if DECODER != "auto" else {}


@dataclass
class Archive:
    """The two stores of a test, and the program's settings for them."""

    redis_url: str
    database_url: str
    redis: "redis.Redis"
    sources: Sequence[SourceSettings] = SOURCES
    more: Mapping[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._connection = psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def settings(self, **more: Any) -> Settings:
        return Settings(
            redis_url=SecretStr(self.redis_url),
            database_url=SecretStr(self.database_url),
            sources=tuple(self.sources),
            **{"worker_name": "test", "http": "off", "oldest_days": OF_ANY_DAY, **_DECODER, **self.more, **more},
        )

    def environment(self, **more: str) -> dict[str, str]:
        """The same settings for a process, on top of a clean environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
        return {
            **kept,
            "ETL_REDIS_URL": self.redis_url,
            "ETL_DATABASE_URL": self.database_url,
            "ETL_SOURCES": json.dumps([source.model_dump() for source in self.sources]),
            "ETL_WORKER_NAME": "test",
            "ETL_HTTP": "off",
            "ETL_OLDEST_DAYS": str(OF_ANY_DAY),
            **{f"ETL_{name.upper()}": str(value) for name, value in {**_DECODER, **self.more}.items()},
            **more,
        }

    def push(self, *messages: bytes, key: str = CAMPAIGNS) -> None:
        """As the dialler does: at the left, so that the old end is right."""
        self.redis.lpush(key, *messages)

    def load(self, **more: Any) -> Books:
        """Drain every list in this process. Raises what kept the first broken one from being loaded."""
        books = Books()

        def loaded(_key: str, more_books: Books) -> None:
            nonlocal books
            books += more_books

        failures: list[EtlError] = []
        drain(self.settings(**more), threading.Event(), loaded, lambda _key, error: failures.append(error))
        if failures:
            raise failures[0]
        return books

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        return self._connection.execute(query, parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        (row,) = self.rows(query, *parameters)
        (value,) = row.values()
        return value

    def cdr(self, call_ref: object) -> dict[str, Any]:
        (row,) = self.rows("SELECT * FROM cdrs WHERE call_ref = %s", str(call_ref))
        return row

    def keys(self) -> set[str]:
        """What is left in Redis, as `left` has it."""
        return {key.decode() for key in left(self.redis)}

    def claims(self, key: str = CAMPAIGNS) -> list[str]:
        """The registry of claims of a source list: "<batch_id>@<worker>"."""
        members: list[bytes] = cast("list[bytes]", self.redis.zrange(f"{{{key}}}:claims", 0, -1))
        return [member.decode() for member in members]

    def assert_books_balance(self) -> None:
        """Promise 3, counted anew: by claim and by day, and nothing is left behind in Redis."""
        assert (
            self.rows("SELECT * FROM load_batches WHERE claimed <> inserted + updated + unchanged + events + dead")
            == []
        )
        for dataset, day in (("cdrs", "dialed_on"), ("audit_events", "captured_on")):
            by_ledger = "SELECT day, sum(inserted) AS n FROM load_batch_days WHERE dataset = %s GROUP BY day"
            in_table = f"SELECT {day} AS day, count(*) AS n FROM {dataset} GROUP BY {day}"
            ledger = {row["day"]: row["n"] for row in self.rows(by_ledger, dataset) if row["n"]}
            assert ledger == {row["day"]: row["n"] for row in self.rows(in_table)}
        assert self.value("SELECT coalesce(sum(dead), 0) FROM load_batches") == self.value(
            "SELECT count(*) FROM dead_letters"
        )
        for source in self.sources:
            assert self.claims(source.key) == []
        assert [key for key in self.keys() if ":claim:" in key] == []

    @contextmanager
    def process(self, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
        """A real `etl` process, ended by its pid at the end if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", "etl.cli", *arguments],
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """An `etl` process, waited for. With something for Python itself among its environment, a whole one."""
        if not any(name.startswith("PYTHON") for name in environment):
            return forked.run(arguments, self.environment(**environment))
        return subprocess.run(
            [sys.executable, "-m", "etl.cli", *arguments],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def eventually(condition: Callable[[], object], seconds: float = 90.0, what: str = "") -> None:
    """Wait for a condition; fails loudly when it doesn't come true. The one kind of waiting that tests do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what or "it never came true"
        time.sleep(0.02)
