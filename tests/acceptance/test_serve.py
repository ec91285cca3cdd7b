"""`etl serve`: who may ask what, and what becomes of it when a store is away. What today's figures are is in
tests/integration/test_wall_today.py."""

import contextlib
import http.client
import itertools
import re
import resource
import signal
import socket
import threading
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.app.serving import MOST_CONNECTIONS
from tests.tools import extra
from tests.wall import PROMISED, Served, at_noon, listened, load_and_listen, said, served
from tests.world import Archive, cdr, eventually

TOKEN = "correct-horse-battery"
PATHS = [
    "/x",
    "/login/",
    "/static",
    "/static/",
    "/static/x",
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "//",
    "/%00",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]
OPEN = {("/", "GET"), ("/", "HEAD"), ("/static/wall.css", "GET"), ("/static/wall.js", "GET")}
AWAY = "postgresql://etl@127.0.0.1:1/etl"
NO_REDIS = "redis://127.0.0.1:1/0"


def test_given_calls_and_agents_then_the_page_shows_today(archive: Archive, tmp_path: Path) -> None:
    now = at_noon(archive)
    dialed = int(now.timestamp())
    archive.push(cdr(1, dialed_at=dialed), cdr(2, dialed_at=dialed, extension=None), cdr(3, dialed_at=dialed - 86_400))
    archive.push(
        listened(now), said("1002", "busy", now - timedelta(seconds=90), campaign_ref="2040"), key="etl:events"
    )
    load_and_listen(archive)
    archive.push(cdr(4, dialed_at=dialed))
    with served(archive, tmp_path / "log") as wall:
        page = wall.ask("/")
        assert page.status == 200
        assert page.row("2040")[:5] == ["2", "2", "1", "1", "50.0%"]
        state, since, lasted, campaign = page.row("1002")
        assert (state, campaign) == ("busy", "2040")
        assert re.fullmatch(r"\d\d:\d\d:\d\d", since)
        assert lasted >= "0:01:30"
        assert page.tiles["waiting to be loaded"] == "1"
        assert page.tiles["agents logged in"] == "1"
        load_and_listen(archive)
        eventually(lambda: wall.ask("/").row("2040")[0] == "3")


def test_given_nobody_listens_then_what_agents_do_is_not_known(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path / "log", ETL_REDIS_URL=NO_REDIS) as wall:
        page = wall.ask("/")
    assert page.tiles["agents logged in"] == "not known"
    assert page.tiles["waiting to be loaded"] == "not known"
    assert page.tiles["calls out"] == "0"
    assert "nobody listens: agents' states aren't known" in page.text


def test_whatever_is_asked_only_the_pages_are_answered(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path / "log") as wall:
        for path, method in itertools.product(["/", "/static/wall.css", "/static/wall.js", *PATHS], METHODS):
            answer = wall.ask(path, method)
            assert (answer.status == 200) == ((path, method) in OPEN or (method == "HEAD" and (path, "GET") in OPEN))
            assert answer.status in (200, 404, 405), (path, method)
            assert PROMISED.items() <= answer.headers.items(), (path, method)
        assert set(wall.ask("/", "POST").headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()


def test_given_any_bytes_then_they_are_answered_and_nothing_logged(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path / "log") as wall:

        @given(
            st.binary(max_size=40), st.sampled_from([b"", b"Host: localhost\r\n", b"Cookie: etl_wall=\xff.\xff\r\n"])
        )
        def ask(request: bytes, header: bytes) -> None:
            with socket.create_connection(("127.0.0.1", wall.port), timeout=60) as connection:
                connection.sendall(b"GET /" + request + b" HTTP/1.1\r\n" + header + b"\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

        ask()
        assert wall.ask("/").status == 200
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()


def test_given_a_name_that_is_not_ours_then_nothing_is_shown(archive: Archive, tmp_path: Path) -> None:
    others = [
        "evil.example",
        "localhost.evil.example",
        "",
        "evil.example:80",
        "127.0.0.1.nip.io",
        "wall.example.com.",
        "a b",
    ]
    ours = ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "wall.example.com", "Wall.Example.Com:443"]
    with served(archive, tmp_path / "log", ETL_WEB_HOSTS='["wall.example.com"]') as wall:
        for path in ("/", "/login", "/static/wall.js"):
            assert {name: wall.ask(path, headers={"Host": name}).status for name in others} == dict.fromkeys(
                others, 400
            )
        assert {name: wall.ask("/", headers={"Host": name}).status for name in ours} == dict.fromkeys(ours, 200)


def logged_in(wall: Served, token: str = TOKEN) -> str:
    """The cookie that the browser gets for it."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = wall.ask("/login", "POST", f"token={token}", form)
    assert (answer.status, answer.headers["location"]) == (303, "/"), answer
    name, _, rest = answer.headers["set-cookie"].partition("=")
    value, *flags = rest.split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(flags)
    assert token not in value
    return f"{name}={value}"


def test_given_a_token_then_only_who_has_it_sees_anything(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path / "log", ETL_WEB_TOKEN=TOKEN) as wall:
        for path in ("/", "/x", "/loginx", "/static"):
            answer = wall.ask(path)
            assert (answer.status, "calls out" in answer.body, 'type="password"' in answer.body) == (401, False, True)
        for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%00", "é" * 30):
            assert wall.ask("/", headers={"Authorization": f"Bearer {wrong}".encode().decode("latin-1")}).status == 401
            assert wall.ask("/login", "POST", f"token={wrong}".encode().decode("latin-1")).status == 401
        assert wall.ask("/login", "POST", "x" * 5_000).status == 413

        assert wall.ask("/", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
        cookie = logged_in(wall)
        assert wall.ask("/", headers={"Cookie": cookie}).status == 200
        forged = [
            cookie[:place] + ("1" if cookie[place] != "1" else "2") + cookie[place + 1 :] for place in range(9, 40)
        ]
        for each in [*forged, cookie[:-1], cookie.partition(".")[0], "etl_wall=.", "etl_wall=9999999999."]:
            assert wall.ask("/", headers={"Cookie": each}).status == 401, each
        assert TOKEN not in wall.log.read_text()
    with served(archive, tmp_path / "other", ETL_WEB_TOKEN=TOKEN + "2") as wall:
        assert wall.ask("/", headers={"Cookie": cookie}).status == 401, "a new token ends all cookies"


def test_given_no_postgres_then_the_page_says_so_and_it_lives(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path / "log", ETL_WEB_DATABASE_URL=AWAY.replace("etl@", "etl:hunter2@")) as wall:
        page = wall.ask("/")
        assert page.status == 200
        assert "Postgres can't be asked, so nothing of today is known: ETL-301" in page.text
        assert page.tiles["calls out"] == "not known"
        assert page.tiles["waiting to be loaded"] == "0"
        eventually(lambda: wall.lines("wall_outage_began"))
        assert "hunter2" not in page.body + wall.log.read_text()
        assert wall.end() == 0


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_given_a_postgres_that_hangs_then_it_answers_and_ends(
    archive: Archive, tmp_path: Path, signal_: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://etl@127.0.0.1:{silent.getsockname()[1]}/etl"
        with served(archive, tmp_path / "log", ETL_WEB_DATABASE_URL=url, ETL_REDIS_URL=NO_REDIS) as wall:
            assert wall.ask("/").tiles["calls out"] == "not known"
            wall.process.send_signal(signal_)
            assert wall.process.wait(60) == 0, wall.log.read_text()


def test_given_no_library_then_an_error_names_the_extra(archive: Archive, tmp_path: Path) -> None:
    for library in ("jinja2", "starlette", "uvicorn"):
        folder = tmp_path / library
        folder.mkdir()
        (folder / f"{library}.py").write_text(f"raise ModuleNotFoundError('gone', name={library!r})")
        done = archive.run("serve", PYTHONPATH=str(folder))
        assert done.returncode == 2
        assert done.stderr.startswith(f"etl: ETL-927: {library} isn't installed"), done.stderr
        assert [package for package in extra("web") if f"'{package}'" not in done.stderr] == []


def test_given_an_address_that_is_not_to_be_had_then_an_error_says_so(archive: Archive) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = archive.run("serve", ETL_WEB=f"127.0.0.1:{taken.getsockname()[1]}")
    assert (done.returncode, done.stderr[:13]) == (1, "etl: ETL-928:")
    done = archive.run("serve", ETL_WEB="192.0.2.1:8080")
    assert (done.returncode, done.stderr[:13]) == (2, "etl: ETL-929:")
    done = archive.run("serve", ETL_WEB="off")
    assert (done.returncode, done.stderr[:13]) == (2, "etl: ETL-103:")


def test_given_names_with_markup_then_they_are_text(archive: Archive, tmp_path: Path) -> None:
    now = at_noon(archive)
    bad = "<script>alert(1)</script>'\"&\u202e\x1b[31m{{7*7}}"
    archive.push(cdr(1, dialed_at=int(now.timestamp()), ref=bad))
    archive.push(listened(now), said("1", bad, now, campaign_ref=bad, ref=bad), key="etl:events")
    load_and_listen(archive)
    with served(archive, tmp_path / "log") as wall:
        page = wall.ask("/")
    assert "<script>alert" not in page.body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.body
    assert page.body.count("\u202e") == page.body.count("\x1b") == 0
    assert "{{7*7}}" in page.body


def test_given_idle_connections_then_others_get_in_all_the_same(archive: Archive, tmp_path: Path) -> None:
    begun = [
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\ntok",
    ]
    with served(archive, tmp_path / "log", ETL_WEB_TOKEN=TOKEN) as wall, contextlib.ExitStack() as open_ones:
        for beginning in begun * (MOST_CONNECTIONS // len(begun) + 1):
            connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", wall.port), timeout=60))
            connection.sendall(beginning)
        eventually(lambda: wall.ask("/").status == 401)
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()


def test_given_no_file_descriptor_then_one_line_says_so(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path / "log") as wall:
        assert wall.ask("/").status == 200
        resource.prlimit(wall.process.pid, resource.RLIMIT_NOFILE, (40, 40))
        with contextlib.ExitStack() as open_ones:
            for _ in range(80):
                open_ones.enter_context(socket.create_connection(("127.0.0.1", wall.port), timeout=60))
            eventually(lambda: wall.lines("connections_refused"))
        eventually(lambda: wall.ask("/static/wall.css").status == 200)
        assert len(wall.log.read_text().splitlines()) == 2, wall.log.read_text()


def test_given_sigterm_while_it_answers_then_nothing_breaks(archive: Archive, tmp_path: Path) -> None:
    with (
        served(archive, tmp_path / "log", ETL_WEB_TOKEN=TOKEN) as wall,
        socket.create_connection(("127.0.0.1", wall.port), timeout=60) as half,
        psycopg.connect(archive.database_url) as other,
    ):
        half.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\ntok")
        other.execute("LOCK TABLE reporting.settings")
        threading.Thread(target=give_up, args=(wall,), daemon=True).start()
        eventually(lambda: archive.rows("SELECT 1 AS it FROM pg_locks WHERE NOT granted"))
        assert wall.end() == 0
        assert [line for line in wall.log.read_text().splitlines() if "Traceback" in line or '"error"' in line] == []


def give_up(wall: Served) -> None:
    """Asks what isn't answered any more."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        wall.ask("/campaigns", headers={"Authorization": f"Bearer {TOKEN}"})
