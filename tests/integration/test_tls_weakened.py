"""No option of a URL and no variable takes anything from TLS without `etl check` saying that it's wrong. The options
are those that the drivers themselves know; what one does is tried on servers whose certificates are no good."""

import inspect
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import redis.connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.pq import Conninfo

from etl import urls
from etl.app import check as preflight
from etl.errors import EtlError
from etl.findings import Finding, encryption
from etl.inbox import connection as inbox
from etl.inbox import preflight_line as of_redis
from etl.store import connection as store
from etl.store import preflight_line as of_postgres
from tests.tls import Authority, TlsFront
from tests.world import Archive

SERVERS = ("honest", "stranger", "namesake")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What options name may be written as a file, in the folder where one is."""
    monkeypatch.chdir(tmp_path)


class Fronts(NamedTuple):
    """Before one store. Whom clients shall believe is the honest server's CA; the stranger's certificate is of another
    one, and the namesake's is of the right CA, for another host."""

    honest: TlsFront
    stranger: TlsFront
    namesake: TlsFront


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> list[Path]:
    theirs = Authority(tmp_path_factory.mktemp("theirs"))
    return [ours.certificate("localhost"), theirs.certificate("localhost"), ours.certificate("elsewhere.example")]


def opened(server: int | Path, certificates: list[Path]) -> Iterator[Fronts]:
    honest, stranger, namesake = (TlsFront(server, certificate) for certificate in certificates)
    with honest, stranger, namesake:
        yield Fronts(honest, stranger, namesake)


@pytest.fixture
def to_redis(archive: Archive, certificates: list[Path]) -> Iterator[Fronts]:
    yield from opened(urlsplit(archive.redis_url).port or 0, certificates)


@pytest.fixture
def to_postgres(archive: Archive, certificates: list[Path]) -> Iterator[Fronts]:
    sockets = parse_qs(urlsplit(archive.database_url).query)["host"][0]
    yield from opened(Path(sockets) / ".s.PGSQL.5432", certificates)


# -- Redis

# Whatever its connections take, and its URLs give a type: by far most of it has nothing to do with TLS.
REDIS_OPTIONS = sorted(
    {
        *redis.connection.URL_QUERY_ARGUMENT_PARSERS,
        *inspect.signature(redis.connection.SSLConnection).parameters,
        *inspect.signature(redis.connection.Connection).parameters,
        *inspect.signature(redis.connection.AbstractConnection).parameters,
    }
    - {"ssl_ca_certs"}
)
REDIS_VALUES = (
    *("none", "None", "NONE", "CERT_NONE", "optional", "required", "", "0", "1", "2"),
    *("true", "false", "False", "FALSE", "no", "off", "769", "ALL:@SECLEVEL=0", "VERIFY_X509_STRICT", "localhost"),
)


def enters_redis(url: str) -> bool:
    try:
        with closing(inbox.connect(url)) as client, inbox.translated():
            return bool(client.ping())
    except EtlError:
        return False


def of_line_to_redis(url: str) -> Finding:
    return encryption("Redis", of_redis.line(url), "ETL_REDIS_CA_FILE", of_redis.weaknesses(url, {}))


def redis_url(front: TlsFront, ca: Path, *options: tuple[str, str]) -> str:
    given = "&".join(f"{quote(name)}={quote(value)}" for name, value in [("ssl_ca_certs", str(ca)), *options])
    return f"rediss://localhost:{front.port}/0?{given}"


@pytest.mark.timeout(300)
def test_redis_option_that_lets_a_false_server_in_is_wrong(to_redis: Fronts, ours: Authority) -> None:
    """Each that redis-py has, with values of all kinds."""
    let_in = set()
    for name in REDIS_OPTIONS:
        for value in REDIS_VALUES:
            for front in (to_redis.stranger, to_redis.namesake):
                url = redis_url(front, ours.ca, (name, value))
                if enters_redis(url):
                    let_in.add((name, value))
                    assert of_line_to_redis(url).verdict == "wrong", url

    assert let_in == {("ssl_cert_reqs", "none"), ("ssl_check_hostname", "false")}


KNOWN = [(name, value) for name in ("ssl_cert_reqs", "ssl_check_hostname") for value in REDIS_VALUES]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=st.lists(st.sampled_from(KNOWN), max_size=4), server=st.sampled_from(SERVERS))
def test_redis_options_given_many_times_are_no_way_in(
    to_redis: Fronts, ours: Authority, options: list[tuple[str, str]], server: str
) -> None:
    url = redis_url(getattr(to_redis, server), ours.ca, *options)

    if enters_redis(url):
        assert server == "honest" or of_line_to_redis(url).verdict == "wrong"


@pytest.mark.parametrize("scheme", urls.TLS_SCHEMES)
@pytest.mark.parametrize(
    "spelt", ["ssl_cert_reqs=none", "ssl%5Fcert_reqs=%6eone", "ssl_check_hostname=false", "ssl_check_hostname=fals%65"]
)
def test_a_weak_option_is_found_however_it_is_spelt(scheme: str, spelt: str) -> None:
    url = f"{scheme}://localhost:1/main?ssl_cert_reqs=required&{spelt}"

    assert of_line_to_redis(url).verdict == "wrong"


@pytest.mark.parametrize("option", [("ssl_cert_reqs", "optional"), ("ssl_check_hostname", "true")])
def test_redis_option_that_takes_nothing_away_is_fine(
    to_redis: Fronts, ours: Authority, option: tuple[str, str]
) -> None:
    url = redis_url(to_redis.honest, ours.ca, option)

    assert enters_redis(url)
    assert of_line_to_redis(url).verdict == "fine"


# -- Postgres

# Those of libpq that have to do with how the line is protected, and not with where it leads or who asks.
LIBPQ_OPTIONS = sorted(
    keyword
    for keyword in (option.keyword.decode() for option in Conninfo.get_defaults())
    if keyword.startswith(("ssl", "gss", "channel", "require", "min_", "max_")) and keyword != "sslrootcert"
)
LIBPQ_VALUES = (
    *("disable", "allow", "prefer", "require", "verify-ca", "verify-full", "", "0", "1"),
    *("TLSv1", "tlsv1.1", "TLSv1.3", "direct", "none", "latest"),
)


def postgres_url(archive: Archive, front: TlsFront, ca: Path, **options: str) -> str:
    wanted = {"sslmode": "verify-full", "sslrootcert": str(ca), **options}
    database = urlsplit(archive.database_url).path
    url = f"postgresql+psycopg://postgres@localhost:{front.port}{database}"
    return urls.with_options(url, wanted)


def of_line_to_postgres(url: str) -> Finding | None:
    """None if it lets nobody in."""
    engine = store.connect(url)
    try:
        return of_postgres.finding(engine)
    except EtlError:
        return None
    finally:
        engine.dispose()


@pytest.mark.timeout(300)
def test_libpq_option_that_lets_a_false_server_in_is_wrong(
    archive: Archive, to_postgres: Fronts, ours: Authority, tmp_path: Path
) -> None:
    """Each that libpq has for the line, with values of all kinds."""
    let_in = set()
    for name in LIBPQ_OPTIONS:
        for value in (*LIBPQ_VALUES, str(tmp_path / "file")):
            for front in (to_postgres.stranger, to_postgres.namesake):
                found = of_line_to_postgres(postgres_url(archive, front, ours.ca, **{name: value}))
                if found:
                    let_in.add((name, value))
                    assert found.verdict == "wrong", (name, value)

    modes = {"disable", "allow", "prefer", "require", "verify-ca"}
    assert let_in >= {("sslmode", mode) for mode in modes}
    assert {name for name, _ in let_in} == {"sslmode"}


def test_libpq_option_is_wrong_if_it_weakens_the_line_to_an_honest_server(
    archive: Archive, to_postgres: Fronts, ours: Authority, tmp_path: Path
) -> None:
    log = str(tmp_path / "keys")
    found = {
        (name, value): of_line_to_postgres(postgres_url(archive, to_postgres.honest, ours.ca, **{name: value}))
        for name in LIBPQ_OPTIONS
        if name != "sslmode"
        for value in (*LIBPQ_VALUES, log)
    }

    wrong = {option for option, each in found.items() if each and each.verdict == "wrong"}
    assert wrong - {("sslkeylogfile", value) for value in (*LIBPQ_VALUES, log)} == {
        ("channel_binding", "disable"),
        ("ssl_min_protocol_version", "TLSv1"),
        ("ssl_min_protocol_version", "tlsv1.1"),
    }
    assert {each.verdict for each in found.values() if each} == {"wrong", "fine"}
    if "sslkeylogfile" in LIBPQ_OPTIONS:
        assert Path(log).read_text()
        assert ("sslkeylogfile", log) in wrong


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca"])
def test_given_a_weak_mode_in_the_environment_then_it_is_wrong(
    archive: Archive, to_postgres: Fronts, monkeypatch: pytest.MonkeyPatch, mode: str, ours: Authority
) -> None:
    monkeypatch.setenv("PGSSLMODE", mode)
    monkeypatch.setenv("PGSSLROOTCERT", str(ours.ca))
    database = urlsplit(archive.database_url).path

    found = of_line_to_postgres(f"postgresql+psycopg://postgres@localhost:{to_postgres.namesake.port}{database}")

    assert found
    assert found.verdict == "wrong"
    assert mode in found.says


# -- the command


def test_given_weakened_lines_then_the_command_says_so_and_fails(
    archive: Archive, to_redis: Fronts, to_postgres: Fronts, ours: Authority
) -> None:
    database = postgres_url(archive, to_postgres.stranger, ours.ca, sslmode="require").replace("+psycopg", "")
    weak = {
        "ETL_REDIS_URL": redis_url(to_redis.stranger, ours.ca, ("ssl_cert_reqs", "none")),
        "ETL_DATABASE_URL": database.replace(f"&sslrootcert={ours.ca}", ""),
    }
    result = archive.run("check", **weak)

    assert result.returncode == 1
    assert "ssl_cert_reqs=none" in result.stdout
    assert "sslmode=require" in result.stdout


def test_given_a_weakened_line_of_the_keepers_then_it_is_wrong(
    archive: Archive, to_postgres: Fronts, ours: Authority
) -> None:
    weak = postgres_url(archive, to_postgres.stranger, ours.ca, sslmode="require").replace("+psycopg", "")
    settings = archive.settings(lake_database_url=weak.replace(f"&sslrootcert={ours.ca}", ""))

    found = {each.about: each for each in preflight.check(settings)}

    assert found["line to Postgres"].verdict == "fine"
    assert found["line to Postgres of the lake"].verdict == "wrong"
    assert "sslmode=require" in found["line to Postgres of the lake"].says


def test_given_a_log_of_the_keys_then_the_line_to_redis_is_wrong(
    archive: Archive, to_redis: Fronts, ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    url = redis_url(to_redis.honest, ours.ca)

    assert enters_redis(url)
    assert log.read_text()
    over_tls = replace(archive, redis_url=url)
    found = next(each for each in preflight.check(over_tls.settings()) if each.about == "line to Redis")
    assert found.verdict == "wrong"
    assert "SSLKEYLOGFILE" in found.says
