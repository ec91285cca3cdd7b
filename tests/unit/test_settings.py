"""Settings as an operator writes them, and what he is told when they are wrong."""

import contextlib
import json
import pickle
from datetime import UTC
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from pydantic import SecretStr

from etl.errors import ConfigurationError
from etl.settings import Settings, SourceSettings, load
from tests.tls import Authority


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etl.toml"


def problems(environ: dict[str, str], config: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(config, environ)
    return caught.value.text.splitlines()


def codes(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(None, environ)
    return [line.partition(": ")[0] for line in str(caught.value).splitlines()]


def the_problem(environ: dict[str, str], config: Path | None = None) -> str:
    (problem,) = problems(environ, config)
    return problem


# What can be set


def test_without_any_setting_the_defaults_of_the_dialler_hold() -> None:
    settings = load(None, {})

    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:8001/0"
    assert settings.redis_cluster is False
    assert settings.sqlalchemy_url == "postgresql+psycopg://127.0.0.1:5432/etl"
    assert (settings.batch_size, settings.linger_ms, settings.lease_seconds) == (5_000, 200, 60)
    assert (settings.max_message_bytes, settings.oldest_days) == (1024 * 1024, 3_650)
    assert settings.sources == (
        SourceSettings(key="enigma:notifications:campaigns", source="dialler", take_from="right", forward_to=None),
        SourceSettings(key="enigma:notifications:cdr", source="click2dial", take_from="right", forward_to=None),
    )


def test_the_environment_sets_everything() -> None:
    settings = load(
        None,
        {
            "ETL_REDIS_URL": "rediss://:pw@redis:6380/2",
            "ETL_REDIS_CLUSTER": "true",
            "ETL_REDIS_NAME": "site-1/[dialler]@8001",
            "ETL_DATABASE_URL": "postgres://etl:pw@db/archive",
            "ETL_BATCH_SIZE": "100000",
            "ETL_LINGER_MS": "0",
            "ETL_LEASE_SECONDS": "10",
            "ETL_WORKER_NAME": "loader-1.example",
            "ETL_MAX_MESSAGE_BYTES": "1024",
            "ETL_OLDEST_DAYS": "0",
            "ETL_HTTP": "[::1]:9465",
            "ETL_SOURCES": '[{"key": "cdrs", "source": "pbx", "take_from": "left", "forward_to": "{cdrs}:crm"}]',
            "PATH": "/usr/bin",
        },
    )

    assert settings == Settings(
        redis_url=SecretStr("rediss://:pw@redis:6380/2"),
        redis_cluster=True,
        redis_name="site-1/[dialler]@8001",
        database_url=SecretStr("postgres://etl:pw@db/archive"),
        batch_size=100_000,
        linger_ms=0,
        lease_seconds=10,
        worker_name="loader-1.example",
        max_message_bytes=1_024,
        oldest_days=0,
        http="[::1]:9465",
        sources=(SourceSettings(key="cdrs", source="pbx", take_from="left", forward_to="{cdrs}:crm"),),
    )


def test_a_file_sets_the_same_and_the_environment_wins_over_it(file: Path) -> None:
    file.write_text(
        """
        batch_size = 10
        lease_seconds = 30
        [[sources]]
        key = "cdrs"
        [[sources]]
        key = "inbound"
        take_from = "left"
        """
    )
    settings = load(file, {"ETL_BATCH_SIZE": "20"})

    assert settings.batch_size == 20
    assert settings.lease_seconds == 30
    assert settings.sources == (SourceSettings(key="cdrs"), SourceSettings(key="inbound", take_from="left"))


def test_etl_config_names_the_file_unless_the_command_line_does(file: Path, tmp_path: Path) -> None:
    file.write_text("batch_size = 10")
    other = tmp_path / "other.toml"
    other.write_text("batch_size = 20")

    assert load(None, {"ETL_CONFIG": str(file)}).batch_size == 10
    assert load(other, {"ETL_CONFIG": str(file)}).batch_size == 20
    assert load(None, {"ETL_CONFIG": ""}).batch_size == 5_000


def test_only_the_given_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_BATCH_SIZE", "7")

    assert load(None, {}).batch_size == 5_000
    assert Settings().batch_size == 5_000


@pytest.mark.parametrize(
    ("host", "worker"),
    [("dial-1.example", "dial-1.example"), ("büro pc", "b-ro-pc"), ("h" * 100, "h" * 64), ("", "worker")],
)
def test_a_worker_is_called_after_its_host(monkeypatch: pytest.MonkeyPatch, host: str, worker: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)

    name = load(None, {}).worker_name
    assert name == worker
    assert load(None, {"ETL_WORKER_NAME": name}).worker_name == worker


@pytest.mark.parametrize(
    ("http", "address"),
    [
        ("off", None),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::]:0", ("::", 0)),
        ("loader-1.example:65535", ("loader-1.example", 65535)),
    ],
)
def test_metrics_are_served_at_an_address_or_not_at_all(http: str, address: tuple[str, int] | None) -> None:
    assert load(None, {"ETL_HTTP": http}).http_address == address


@pytest.mark.parametrize(
    "http", ["", "on", "9464", ":9464", "::1:9464", "host", "host:", "h:65536", "h:x", "h:1/m", "u@h:1"]
)
def test_an_address_that_is_none_is_refused(http: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^ETL-103: ETL_HTTP must be host:port, like 127\.0\.0\.1:9464"):
        load(None, {"ETL_HTTP": http})


def test_an_empty_token_or_list_of_names_is_one_not_set() -> None:
    settings = load(None, {"ETL_WEB_TOKEN": "", "ETL_WEB_HOSTS": ""})
    assert (settings.web_token, settings.web_hosts) == (None, ())


@pytest.mark.parametrize(
    "token", ["sixteen-chars-ok\n", " sixteen-chars-ok", "p\u00e4ssw\u00f6rt-p\u00e4ssw\u00f6rt", "sixteen\tchars-ok"]
)
def test_a_token_that_no_header_can_have_is_refused(token: str) -> None:
    told = "ETL_WEB_TOKEN must have only printable ASCII characters, and no space around them"
    assert the_problem({"ETL_WEB_TOKEN": token}) == told


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_sqlalchemy_gets_the_database_url_with_its_own_scheme(scheme: str) -> None:
    settings = load(None, {"ETL_DATABASE_URL": f"{scheme}://u:p%40w@/etl?host=/run/postgresql"})

    assert settings.sqlalchemy_url == "postgresql+psycopg://u:p%40w@/etl?host=/run/postgresql"


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host:6379/0?client_name=etl",
        "redis://[::1]:6379/",
        "rediss://user:pw@host/15",
        "unix:///run/redis.sock",
        "unix://user:pw@/run/redis.sock?db=1",
        "redis+sentinel://user:pw@one:26379,two:26379/dialler/0",
        "redis+sentinel://pw@one/dialler",
        "rediss+sentinel://pw@one/dialler",
        "redis+sentinel://[::1]:26379,[::2]:26379/mymaster/0",
        "rediss+sentinel://:p%40w@[fe80::1%25eth0],one:26380,[::ffff:10.0.0.1]/mymaster",
        "redis://u:p%40w@[::1]:7000",
    ],
)
def test_every_way_to_redis_can_be_set(url: str) -> None:
    assert load(None, {"ETL_REDIS_URL": url}).redis_url.get_secret_value() == url


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority(tmp_path_factory.mktemp("a ca")).ca  # a space in its path


def test_a_ca_file_becomes_part_of_the_urls_which_then_verify(ca: Path) -> None:
    settings = load(
        None,
        {
            "ETL_REDIS_URL": "rediss://host/0",
            "ETL_REDIS_CA_FILE": str(ca),
            "ETL_DATABASE_URL": "postgres://u:p%40w@db/etl?connect_timeout=3",
            "ETL_DATABASE_CA_FILE": str(ca),
        },
    )

    path = str(ca).replace(" ", "%20")
    assert settings.inbox_url == f"rediss://host/0?ssl_ca_certs={path}"
    expected = f"u:p%40w@db/etl?connect_timeout=3&sslrootcert={path}&sslmode=verify-full"
    assert settings.libpq_url == f"postgresql://{expected}"
    assert settings.sqlalchemy_url == f"postgresql+psycopg://{expected}"


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgres://db/etl", None),
        ("postgres://db/etl?sslrootcert=system", "verify-full"),
        ("postgres://db/etl?sslrootcert=ca.pem&sslmode=verify-ca", "verify-ca"),
        ("postgres://db/etl?sslmode=require", "require"),
    ],
)
def test_a_ca_in_the_url_is_there_to_be_used(url: str, mode: str | None) -> None:
    options = parse_qs(urlsplit(load(None, {"ETL_DATABASE_URL": url}).libpq_url).query)

    assert options.get("sslmode") == ([mode] if mode else None)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"REDIS_CA_FILE": "/nowhere/ca.pem"}, "names /nowhere/ca.pem, which can't be read: No such file or directory"),
        ({"DATABASE_CA_FILE": "/nowhere/ca.pem"}, "names /nowhere/ca.pem, which can't be read: No such file or"),
        ({"REDIS_CA_FILE": "{folder}"}, "names {folder}, which can't be read: Is a directory"),
        ({"REDIS_CA_FILE": "{folder}/empty"}, "names {folder}/empty, which holds no certificate in PEM"),
        ({"DATABASE_CA_FILE": "{folder}/junk"}, "names {folder}/junk, which holds no certificate in PEM"),
        ({"REDIS_CA_FILE": "{ca}"}, "goes with a rediss:// or rediss+sentinel:// URL only: others have no TLS"),
        (
            {"REDIS_CA_FILE": "{ca}", "REDIS_URL": "rediss://h?ssl_ca_certs=other"},
            "is given, and ssl_ca_certs in the URL too: name the file once",
        ),
        (
            {"DATABASE_CA_FILE": "{ca}", "DATABASE_URL": "postgres://h/d?sslrootcert=other"},
            "is given, and sslrootcert in the URL too: name the file once",
        ),
        (
            {"DATABASE_CA_FILE": "{ca}", "DATABASE_URL": "postgres://h/d?sslmode=require"},
            "goes with sslmode=verify-full only, which it brings along: leave sslmode out of the URL",
        ),
    ],
)
def test_a_ca_file_that_cannot_be_used_is_told_by_its_name(
    ca: Path, tmp_path: Path, more: dict[str, str], told: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "junk").write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    places = {"ca": ca, "folder": tmp_path}

    problem = the_problem({f"ETL_{name}": value.format(**places) for name, value in more.items()})

    assert problem.startswith(f"ETL_{next(iter(more))} {told.format(**places)}")


def test_settings_travel_to_another_process() -> None:
    settings = load(None, {"ETL_DATABASE_URL": "postgres://u:pw@db/etl"})

    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_source_may_have_a_time_zone() -> None:
    (given, default) = load(None, {"ETL_SOURCES": '[{"key": "a", "zone": "Europe/Bucharest"}, {"key": "b"}]'}).sources

    assert (given.zone, given.time_zone) == ("Europe/Bucharest", ZoneInfo("Europe/Bucharest"))
    assert (default.zone, default.time_zone) == ("UTC", UTC)


def test_utc_needs_no_data_about_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(key: str) -> None:
        raise ZoneInfoNotFoundError(key)

    monkeypatch.setattr("etl.settings.ZoneInfo", bare)
    assert load(None, {"ETL_SOURCES": '[{"key": "a"}]'}).sources[0].time_zone is UTC
    assert the_problem({"ETL_SOURCES": '[{"key": "a", "zone": "Asia/Tokyo"}]'}).endswith(f"must be {A_ZONE}")


@pytest.mark.parametrize(("written", "mode"), [("0640", 0o640), ("600", 0o600), ("0666", 0o666), ("0644", 0o644)])
def test_the_mode_of_files_is_octal_as_chmod_takes_it(file: Path, written: str, mode: int) -> None:
    file.write_text(f'lake_file_mode = "{written}"')

    assert load(None, {}).lake_file_mode == 0o640
    assert load(None, {"ETL_LAKE_FILE_MODE": written}).lake_file_mode == mode
    assert load(file, {}).lake_file_mode == mode


# What is told when it's wrong

A_MODE = 'octal permissions like "0640", by which at least the owner may read and write'
A_ZONE = "the IANA name of a time zone, like Europe/Bucharest, or UTC"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ETL_BATCH_SIZE", "0", "is too small: must be a whole number of messages from 1 to 100000"),
        ("ETL_BATCH_SIZE", "100001", "is too large: must be a whole number of messages from 1 to 100000"),
        ("ETL_BATCH_SIZE", "many", "must be a whole number of messages from 1 to 100000"),
        ("ETL_BATCH_SIZE", "", "must be a whole number of messages from 1 to 100000"),
        ("ETL_BATCH_SIZE", "1.5", "must be a whole number of messages from 1 to 100000"),
        ("ETL_LINGER_MS", "-1", "is too small: must be a whole number of milliseconds from 0 to 10000"),
        ("ETL_LEASE_SECONDS", "9", "is too small: must be a whole number of seconds from 10 to 3600"),
        ("ETL_MAX_MESSAGE_BYTES", "1023", "is too small: must be a whole number of bytes from 1024 to 268435456"),
        ("ETL_REDIS_CLUSTER", "maybe", "must be true or false"),
        ("ETL_LAKE_HISTORY_DAYS", "-1", "is too small: must be a whole number of days from 0 to 36500"),
        *(
            ("ETL_LAKE_FILE_MODE", mode, f"must be {A_MODE}")
            for mode in (
                "",
                "0400",
                "0o640",
                "640 ",
                "0755",
                "888",
                "rw-r-----",
                "-640",
                "04640",
                "64",
                "\u0666\u0664\u0660",
            )
        ),
        ("ETL_WORKER_NAME", "a b", "must be 1 to 64 letters, digits, '.', '_' or '-'"),
        ("ETL_WORKER_NAME", "w" * 65, "must be 1 to 64 letters, digits, '.', '_' or '-'"),
        ("ETL_SOURCES", "[{]", "isn't JSON: Expecting property name enclosed in double quotes at line 1, column 3"),
        ("ETL_SOURCES", '["', "isn't JSON: Unterminated string starting at line 1, column 2"),
        ("ETL_LISTEN_IGNORE", '["\t"]', "isn't JSON: Invalid control character at line 1, column 3"),
        ("ETL_SOURCES", '{"key": "a"}', "must be a list of sources, each an object with at least a key"),
        ("ETL_SOURCES", "[]", "is empty: there would be nothing to load"),
        ("ETL_SOURCES", '["a"]', "[0] must be an object with at least a key"),
        ("ETL_SOURCES", '[{"key": "a"}, {}]', "[1].key is missing: must be the key of a Redis list"),
        ("ETL_SOURCES", '[{"key": ""}]', "[0].key is empty: must be the key of a Redis list"),
        ("ETL_SOURCES", '[{"key": 5}]', "[0].key must be the key of a Redis list"),
        ("ETL_SOURCES", '[{"key": "a", "take_from": "up"}]', "[0].take_from must be 'right' or 'left'"),
        ("ETL_SOURCES", '[{"key": "a", "source": "a b"}]', "[0].source must be letters, digits, '_' or '-'"),
        ("ETL_SOURCES", '[{"key": "a", "zone": 2}]', f"[0].zone must be {A_ZONE}"),
        *(
            ("ETL_SOURCES", json.dumps([{"key": "a", "zone": zone}]), f"[0].zone must be {A_ZONE}")
            for zone in (
                "",
                "CEST",
                "Europe",
                "europe/nowhere",
                "+02:00",
                "/etc/localtime",
                "../UTC",
                "\0",
                "Z" * 5_000,
            )
        ),
        ("ETL_SOURCES", '[{"key": "a", "take_form": "left"}]', "[0].take_form is unknown: did you mean take_from?"),
    ],
)
def test_a_wrong_value_is_told_under_the_name_that_was_written(name: str, value: str, told: str) -> None:
    separator = "" if told.startswith("[") else " "

    assert the_problem({name: value}) == f"{name}{separator}{told}"


def test_in_a_file_a_setting_is_told_with_the_file(file: Path) -> None:
    file.write_text(
        """
        batch_sise = 3
        lease_seconds = 1.5
        linger_ms = 99_999
        [[sources]]
        key = "a"
        [[sources]]
        key = "b"
        take_from = "up"
        """
    )

    assert problems({}, file) == [
        f"batch_sise in {file} is unknown: did you mean batch_size?",
        f"linger_ms in {file} is too large: must be a whole number of milliseconds from 0 to 10000",
        f"lease_seconds in {file} must be a whole number of seconds from 10 to 3600",
        f"sources[1].take_from in {file} must be 'right' or 'left'",
    ]


def test_all_problems_are_told_at_once_wherever_they_are(file: Path) -> None:
    file.write_text("linger_ms = -1\nbatch_size = 0")

    assert problems({"ETL_BATCH_SIZE": "x", "ETL_REDIS_CLUSTER": "x", "ETL_NEW": "1"}, file) == [
        "ETL_NEW is unknown",
        "ETL_REDIS_CLUSTER must be true or false",
        "ETL_BATCH_SIZE must be a whole number of messages from 1 to 100000",
        f"linger_ms in {file} is too small: must be a whole number of milliseconds from 0 to 10000",
    ]


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ETL_NEW": "1"}, ["ETL-101"]),
        ({"ETL_SOURCES": '[{"key": "a", "kye": "b"}]'}, ["ETL-101"]),
        ({"ETL_BATCH_SIZE": "x"}, ["ETL-102"]),
        ({"ETL_HTTP": "x"}, ["ETL-103"]),
        ({"ETL_REDIS_URL": "x", "ETL_DATABASE_URL": "x"}, ["ETL-104", "ETL-104"]),
        ({"ETL_SOURCES": '[{"key": "a"}, {"key": "a", "forward_to": "a"}]'}, ["ETL-105", "ETL-105"]),
        ({"ETL_REDIS_CA_FILE": "/nowhere"}, ["ETL-106"]),
        ({"ETL_REDIS_CLUSTER": "true"}, ["ETL-107"]),
    ],
)
def test_each_line_of_a_wrong_configuration_has_the_code_of_its_kind(environ: dict[str, str], told: list[str]) -> None:
    assert codes(environ) == told


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("ETL_batch_size", "ETL_BATCH_SIZE"),
        ("ETL_BATCHSIZE", "ETL_BATCH_SIZE"),
        ("ETL_REDIS_URI", "ETL_REDIS_URL"),
        ("ETL_CONFIGURATION", "ETL_CONFIG"),
    ],
)
def test_an_unknown_variable_is_told_with_the_closest_known_one(unknown: str, meant: str) -> None:
    assert the_problem({unknown: "1"}) == f"{unknown} is unknown: did you mean {meant}?"


def test_a_name_that_the_settings_library_reserves_is_unknown_too(file: Path) -> None:
    file.write_text('_env_file = "x"')

    assert the_problem({}, file) == f"_env_file in {file} is unknown"


def test_a_file_that_cannot_be_used_is_told(file: Path, tmp_path: Path) -> None:
    assert the_problem({}, file) == f"settings file {file} can't be read: No such file or directory"
    assert the_problem({}, tmp_path) == f"settings file {tmp_path} can't be read: Is a directory"

    file.write_bytes(b"worker_name = '\xff'")
    assert the_problem({}, file) == f"settings file {file} isn't UTF-8 text"

    file.write_text("batch_size = ")
    assert the_problem({}, file).startswith(f"settings file {file} isn't TOML: ")


def test_sources_that_cannot_work_together_are_told() -> None:
    sources = [{"key": "a"}, {"key": "b", "forward_to": "c"}, {"key": "a"}, {"key": "c", "forward_to": "c"}]

    assert problems({"ETL_SOURCES": json.dumps(sources)}) == [
        "ETL_SOURCES lists the key 'a' 2 times",
        "ETL_SOURCES forwards 'b' to 'c', which is a source itself: a loop",
        "ETL_SOURCES forwards 'c' to 'c', which is a source itself: a loop",
    ]


def test_a_cluster_is_reached_by_host_and_port_only() -> None:
    told = the_problem({"ETL_REDIS_CLUSTER": "true", "ETL_REDIS_URL": "redis+sentinel://one/dialler"})

    assert told == "ETL_REDIS_CLUSTER goes with a redis:// or rediss:// URL only"


def test_a_cluster_must_have_a_name() -> None:
    told = the_problem({"ETL_REDIS_CLUSTER": "true", "ETL_REDIS_URL": "redis://one:7000"})

    assert told.startswith("ETL_REDIS_CLUSTER needs ETL_REDIS_NAME beside it: ")


SERVERS = {
    "redis://127.0.0.1:8001/0": "127.0.0.1:8001/0",
    "redis://Dialler": "dialler:6379/0",
    "redis://:{secret}@dialler/2": "dialler:6379/2",
    "rediss://etl:{secret}@[::1]:6380/0?ssl_cert_reqs=none": "[::1]:6380/0",
    "redis://": "localhost:6379/0",
    "unix:///run/redis.sock": "/run/redis.sock/0",
    "unix:///run/my redis.sock?db=3&password={secret}": "/run/my-redis.sock/3",
    "unix://etl:{secret}@/run/redis.sock": "/run/redis.sock/0",
    "redis+sentinel://one,two:26380/dialler": "dialler",
    "redis+sentinel://etl:{secret}@one/dialler/2?sentinel_password={secret}": "dialler",
    "rediss+sentinel://{secret}@one/di%20al?sentinel_password={secret}": "di-al",
}


@pytest.mark.parametrize("secret", ["hunter2", "p%40ss%2Fw", "p@ss:w", ""])
@pytest.mark.parametrize("url", SERVERS)
def test_a_server_is_called_by_its_url_without_the_password(url: str, secret: str) -> None:
    settings = load(None, {"ETL_REDIS_URL": url.format(secret=secret or "x")})

    assert settings.server == SERVERS[url]


@pytest.mark.parametrize("url", ["redis+sentinel://:{}@one/dialler", "redis://:{}@one/0", "unix://:{}@/run/x.sock"])
@pytest.mark.parametrize("secret", ["a/SECRET", "SECRET/a", "SE/CR/ET", "a/@SECRET", "a?SECRET", "SECRET@/a"])
def test_of_a_password_that_is_not_encoded_nothing_gets_into_a_name(url: str, secret: str) -> None:
    """Such a URL is refused, most of the time; or the password's end is taken for what stands behind it."""
    with contextlib.suppress(ConfigurationError):
        server = load(None, {"ETL_REDIS_URL": url.format(secret)}).server
        assert not set("SECRET") & set(server), server


def test_a_name_that_is_given_is_the_servers() -> None:
    assert load(None, {"ETL_REDIS_NAME": "dialler"}).server == "dialler"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "ü", "a" * 201, "redis://x", "etl:hunter2@host:1/0", "a,b", "a\n"])
def test_a_servers_name_that_can_not_be_is_refused(name: str) -> None:
    assert the_problem({"ETL_REDIS_NAME": name}).startswith("ETL_REDIS_NAME")


# Passwords

TWICE = "names its hosts or their ports twice: before the database's name and behind the ?"
SENTINELS = "must look like redis+sentinel://host:26379,host:26379/service/0"
MALFORMED = "isn't a well-formed URL (are the special characters of its password percent-encoded?)"


@pytest.mark.parametrize(
    ("name", "url", "told"),
    [
        (
            "ETL_REDIS_URL",
            "http://:hunter2@host",
            "must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://",
        ),
        (
            "ETL_REDIS_URL",
            "hunter2",
            "must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://",
        ),
        ("ETL_REDIS_URL", "redis://:hunter2@host/prod", "names a database that isn't a number"),
        ("ETL_REDIS_URL", "redis://:hunt/er2@host", MALFORMED),
        ("ETL_REDIS_URL", "redis://:hunter2@[host", MALFORMED),
        ("ETL_REDIS_URL", "unix://:hunter2@", "lacks the socket's path: unix:///run/redis.sock"),
        (
            "ETL_REDIS_URL",
            "redis+sentinel://:hunter2@host:26379",
            "must look like redis+sentinel://host:26379,host:26379/service/0",
        ),
        (
            "ETL_REDIS_URL",
            "redis+sentinel://:hunter2@host:port/dialler",
            "must look like redis+sentinel://host:26379,host:26379/service/0",
        ),
        (
            "ETL_DATABASE_URL",
            "mysql://u:hunter2@db/etl",
            "must begin with postgresql://, postgres:// or postgresql+psycopg://",
        ),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@db:port/etl", MALFORMED),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@db:1,other:port/etl", MALFORMED),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@db:1,other:65536/etl", MALFORMED),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@db:1,[::g]:2/etl", MALFORMED),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@db:1,::1:2/etl", MALFORMED),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@a,b/etl?host=c", TWICE),
        ("ETL_DATABASE_URL", "postgres://u:hunter2@a:1,b/etl?port=2,3", TWICE),
        (
            "ETL_DATABASE_URL",
            "postgres://u:hunter2@/etl?host=a,b,c&port=1,2",
            "names 3 hosts and 2 ports: name a port for each host, or one for all",
        ),
        (
            "ETL_DATABASE_URL",
            "postgres://u:hunter2@/etl?host=a&host=b",
            "names host more than once: several go into one, as in ?host=a,b&port=5432,5433",
        ),
        (
            "ETL_DATABASE_URL",
            "postgres://u:hunter2@/etl?host=a,b&port=1,hunter2",
            "names a port that isn't a number from 1 to 65535",
        ),
        (
            "ETL_REDIS_URL",
            "redis://:hunter2@a:1,b:2/0",
            "names several hosts: one of a cluster is enough, and sentinels take redis+sentinel://",
        ),
        ("ETL_REDIS_URL", "redis+sentinel://:hunter2@[::1]:26379,[::x]:26379/m", SENTINELS),
        ("ETL_REDIS_URL", "redis+sentinel://:hunter2@::1:26379/m", SENTINELS),
        ("ETL_DATABASE_URL", "postgres://u:12#hunter2@db/etl", MALFORMED),
    ],
)
def test_a_wrong_url_is_told_without_quoting_it(name: str, url: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {name: url})

    assert caught.value.text == f"{name} {told}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_password_in_the_wrong_place_is_not_quoted_either(file: Path) -> None:
    file.write_text('batch_size = "hunter2"\nsources = ["hunter2"]\nredis_url = ["hunter2"]')

    assert "hunter2" not in "\n".join(problems({"ETL_LINGER_MS": "hunter2"}, file))


def test_settings_can_be_printed_without_a_password() -> None:
    settings = load(
        None, {"ETL_REDIS_URL": "redis://:hunter2@host/0", "ETL_DATABASE_URL": "postgres://u:hunter2@db/etl"}
    )

    assert "hunter2" not in f"{settings!r} {settings}"
