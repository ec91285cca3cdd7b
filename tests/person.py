"""A person who is to be forgotten, and every place in which anything could tell of them."""

import json
from collections.abc import Iterator, Sequence

import psycopg
import pyarrow.parquet as pq
from psycopg import sql

from etl.app.forget import open_forgetting
from etl.jobs.forget import Found
from tests.lake import folder, told
from tests.spelled import DIGITS, read
from tests.world import Archive

KEY = "a secret of thirty-two characters"
NUMBER, CONTACT = "0799123456", "P7"
PERSON: dict[str, object] = {"number": NUMBER, "contact_ref": CONTACT}


def forget(
    archive: Archive,
    number: str | None = NUMBER,
    contact: str | None = None,
    dry_run: bool = False,
    also: Sequence[str] = (),
) -> Found:
    with open_forgetting(archive.settings(), number, contact, also) as person:
        return person.count(told) if dry_run else person.run(told)[1]


def everything(archive: Archive) -> Iterator[tuple[str, bytes]]:
    """All rows of all tables as text, all strings of all files, and all their bytes. Not tables of other sessions'
    own, which nobody else can read, and which go while one looks."""
    with psycopg.connect(archive.database_url) as connection:
        tables = connection.execute(
            "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND relpersistence <> 't' AND nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for name in tables:
            with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(*name))) as copy:
                for row in copy:
                    yield name[1], bytes(row)
            if name[1] == "dead_letters":
                for (raw,) in connection.execute("SELECT raw FROM dead_letters"):
                    yield name[1], raw
    for path in folder(archive).rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
        if path.suffix == ".parquet":
            yield str(path), json.dumps(pq.read_table(path).to_pylist(), default=str).encode()


def where_the_person_is(archive: Archive) -> set[str]:
    wanted = (NUMBER.encode(), b"799123456", f'"{CONTACT}"'.encode(), f"\t{CONTACT}\t".encode())
    return {where for where, text in everything(archive) if any(each in text for each in wanted)}


def where_they_are(archive: Archive) -> list[str]:
    """Wherever the number of `tests.spelled` is, however it's spelled."""
    return [where for where, raw in everything(archive) if DIGITS in read(raw.decode("utf-8", "replace"))]
