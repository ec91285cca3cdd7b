"""What each login can and can't do is tried, and docs/security.md says just that."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

from etl.lab.servers.private import PrivateRedis
from tests.integration.conftest import PASSWORD
from tests.integration.test_least_privilege import ACL, STATUS, as_role
from tests.lake import export, load, with_lake
from tests.logins import POSTGRES, REDIS, TABLES, Attempt, Lua, table
from tests.store import ROLES
from tests.world import Archive, cdr

# Insufficient privilege; a day that may not be.
REFUSED = ("42501", "P0926")
PAGE = Path(__file__).parents[2] / "docs/security.md"


@pytest.mark.parametrize("store", TABLES)
def test_the_page_says_what_each_login_can_do(store: str) -> None:
    assert table(store) in PAGE.read_text(), "python -m tests.logins prints the tables as they should be"


@pytest.fixture
def exported(archive: Archive, tmp_path: Path) -> Archive:
    """Some rows of every kind, and a day in the lake; and the roles."""
    load(with_lake(archive, tmp_path / "lake"), cdr(1), cdr(2), cdr(1, call_time=2), b"junk", STATUS)
    assert export(archive).what == "exported"
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    return archive


def may_in_postgres(url: str, attempt: Attempt) -> bool:
    """What is done is undone."""
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION READ WRITE")
        # As any etl, so that it's the rights that refuse it.
        connection.execute("SELECT set_config('etl.release', '0.2.0', true)")
        try:
            for statement in attempt.how:
                done = connection.execute(statement)
        except psycopg.Error as error:
            if error.sqlstate not in REFUSED:
                raise
            return False
        finally:
            connection.rollback()
        return done.description is None or done.description[0].name != "drop_day" or done.fetchall() == [(True,)]


@pytest.mark.parametrize("role", TABLES["Postgres"][1])
def test_given_a_login_of_postgres_then_it_can_do_this_and_no_more(exported: Archive, role: str) -> None:
    url = as_role(exported.database_url, role)
    can = {attempt.what for attempt in POSTGRES if may_in_postgres(url, attempt)}
    assert can == {attempt.what for attempt in POSTGRES if role in attempt.who}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    folder = tmp_path_factory.mktemp("redis")
    (folder / "users.acl").write_text(ACL.replace(" on ", f" on >{PASSWORD} "))
    with PrivateRedis(folder / "data", {"aclfile": str(folder / "users.acl")}) as private:
        yield private


def may_in_redis(client: Any, attempt: Attempt) -> bool:
    try:
        for command in attempt.how:
            _do(client, command)
    except NoPermissionError:
        return False
    except ResponseError as error:  # of a script, with what it was refused within
        if "permission" not in str(error).lower() and "ACL failure" not in str(error):
            raise
        return False
    return True


def _do(client: Any, command: Any) -> None:
    if isinstance(command, Lua):
        client.evalsha(str(client.script_load(command.script)), 1, command.key, *command.arguments)
    elif command[0] == "PSUBSCRIBE":
        with client.pubsub() as listening:
            listening.psubscribe(*command[1:])
            listening.get_message(timeout=200)
    else:
        client.execute_command(*command)


@pytest.mark.parametrize("user", TABLES["Redis"][1])
def test_given_a_user_of_redis_then_it_can_do_this_and_no_more(server: PrivateRedis, user: str) -> None:
    can = set()
    for attempt in REDIS:
        with redis.Redis(port=server.port, username="default", password=PASSWORD, protocol=2) as administrator:
            administrator.flushall()
        with redis.Redis(port=server.port, username=user, password=PASSWORD, protocol=2) as client:
            can |= {attempt.what} if may_in_redis(client, attempt) else set()
    assert can == {attempt.what for attempt in REDIS if user in attempt.who}
