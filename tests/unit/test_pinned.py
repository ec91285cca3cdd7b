"""What libpq reads from the environment, and what of it is ours to keep."""

import psycopg
import pytest

from etl.store.pinned import forget_environment
from tests import hostile

KEPT = ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGDATABASE", "PGSYSCONFDIR")


def of_libpq() -> set[str]:
    return {option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar}


@pytest.mark.parametrize("name", sorted({*KEPT, *(each for each in of_libpq() if each.startswith("PGSSL"))}))
def test_what_says_where_postgres_is_and_who_asks_is_kept(name: str) -> None:
    environ = {name: "value"}
    forget_environment(environ)
    assert environ == {name: "value"}


def test_whatever_else_libpq_reads_is_forgotten_and_nothing_more() -> None:
    others = {"HOME": "/root", "ETL_DATABASE_URL": "postgresql://", "PATH": "/bin"}
    environ = {name: "value" for name in (of_libpq() | {*hostile.environment()}) - {*KEPT} if "PGSSL" not in name}
    assert len(environ) > 10
    environ |= others
    forget_environment(environ)
    assert environ == others
