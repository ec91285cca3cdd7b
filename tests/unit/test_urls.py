"""URLs of several hosts: what libpq itself reads in them is what both drivers get, and no password is shown."""

import contextlib
import itertools
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from etl.settings import load
from etl.urls import check_postgres, check_redis, redacted, split

HOSTS = st.sampled_from(["db", "db-1.example", "[::1]", "[2001:db8::7]", "10.0.0.1", "%2Frun%2Fpostgresql", ""])
PORTS = st.sampled_from(["", ":", ":5432", ":5001", ":65535"])
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
OPTIONS = st.lists(
    st.sampled_from(
        ["target_session_attrs=read-write", "sslmode=require", "application_name=a%20b", "options=-c%20a%3D"]
    ),
    unique=True,
)


def as_both_drivers_have_it(url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """By what libpq reads in its URL, and by what SQLAlchemy hands to psycopg."""
    settings = load(None, {"ETL_DATABASE_URL": url})
    made = sa.make_url(settings.sqlalchemy_url)
    _, options = made.get_dialect()().create_connect_args(made)
    through_sqlalchemy = {name: str(value) for name, value in options.items()}
    return conninfo_to_dict(settings.libpq_url), through_sqlalchemy


def with_ports(read: dict[str, Any]) -> dict[str, Any]:
    """Where a port is left out it is 5432, written or not."""
    count = read.get("host", "").count(",") + 1
    ports = str(read.get("port", "")).split(",")
    ports = ports * count if len(ports) == 1 else ports
    return {**read, "port": ",".join(port or "5432" for port in ports)}


@given(
    st.lists(st.tuples(HOSTS, PORTS), min_size=2, max_size=4),
    st.none() | st.tuples(WORDS, st.none() | WORDS),
    WORDS,
    OPTIONS,
)
@example([("[::1]", ":5001"), ("b", "")], ("u:@/", "p@:/?#,+ %"), "a/b?", [])
def test_libpqs_own_form_of_several_hosts_is_read_as_libpq_reads_it(
    hosts: list[tuple[str, str]], who: tuple[str, str | None] | None, database: str, options: list[str]
) -> None:
    places = ",".join(f"{host}{port}" for host, port in hosts)
    credentials = ":".join(quote(each, safe="") for each in who or () if each)
    query = f"?{'&'.join(options)}" if options else ""
    url = f"postgresql://{credentials}{'@' * bool(credentials)}{places}/{quote(database, safe='')}{query}"

    libpq, sqlalchemy = as_both_drivers_have_it(url)

    assert libpq == with_ports(conninfo_to_dict(url))
    assert sqlalchemy == libpq


@given(
    st.lists(HOSTS.map(lambda host: host.strip("[]")), min_size=1, max_size=3).filter(any),
    st.sampled_from(["", "1", "each"]),
)
def test_hosts_as_an_option_go_on_being_read(hosts: list[str], ports: str) -> None:
    given_ports = {"": "", "1": "&port=5001", "each": f"&port={','.join('5001' for _ in hosts)}"}[ports]
    url = f"postgresql://u:pw@/etl?host={','.join(hosts)}{given_ports}&target_session_attrs=any"

    libpq, sqlalchemy = as_both_drivers_have_it(url)

    assert with_ports(libpq) == with_ports(conninfo_to_dict(url))
    assert with_ports(sqlalchemy) == with_ports(libpq)


@pytest.mark.parametrize("url", ["postgresql://u@db:5001/etl", "postgresql://[::1]/etl", "postgresql:///etl?host=/run"])
def test_a_single_host_is_left_as_it_was_written(url: str) -> None:
    assert load(None, {"ETL_DATABASE_URL": url}).libpq_url == url


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("redis+sentinel://[::1]:26379,[::2]/m/0", [("::1", 26379), ("::2", None)]),
        ("redis+sentinel://u:p@a,b:1/m", [("a", None), ("b", 1)]),
        ("redis://[fe80::1%25eth0]:7000", [("fe80::1%eth0", 7000)]),
        ("unix:///run/redis.sock", [("", None)]),
    ],
)
def test_hosts_are_told_apart_whatever_their_kind(text: str, hosts: list[tuple[str, int | None]]) -> None:
    assert [*split(text).hosts] == hosts


# -- passwords

SHAPES = [
    "redis://{}@host/0",
    "redis://[::1]:7000/0?password={}",
    "unix:///run/redis.sock?db=0&password={}",
    "redis+sentinel://{}@[::1]:26379,[::2]:26379/m/0",
    "redis+sentinel://{}@one,two/m",
    "redis+sentinel://[::1]:1,[::2]:2/m?sentinel_password={}",
    "postgresql://{}@a:5001,[::1]:5002/etl?target_session_attrs=read-write",
    "postgresql://a:5001,b:5002/etl?password={}",
    "postgresql+psycopg://u@/etl?host=a,b&port=1,2&sslpassword={}",
]
SECRETS = ["hun{}ter", "{}hunter", "hunter{}"]
CREDENTIALS = ["user:{}", ":{}", "{}"]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_part_of_a_password_is_shown_be_it_encoded_or_not(shape: str) -> None:
    is_option = "={}" in shape
    forms = ["{}"] if is_option else CREDENTIALS if "sentinel" in shape else CREDENTIALS[:2]
    # Where one stands that ends an option, nobody can know what was meant.
    specials = "@:/?#[],%+ =" if is_option else "@:/?#[],%+ =&"
    for form, secret, special in itertools.product(forms, SECRETS, specials):
        if form == "{}" and not is_option and special == ":":  # what stands before it is a user's name
            continue
        for password in (secret.format(special), quote(secret.format(special), safe="")):
            shown = redacted(shape.format(form.format(password)))
            assert "hun" not in shown, (password, shown)
            assert "ter" not in shown, (password, shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:8001/0", "redis://127.0.0.1:8001/0"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("rediss://user:pw@host:6380", "rediss://user:***@host:6380"),
        ("redis://host/0?password=pw&db=1", "redis://host/0?password=***&db=1"),
        ("unix:///run/redis.sock?db=0&Password=pw", "unix:///run/redis.sock?db=0&Password=***"),
        (
            "redis+sentinel://u:pw@a:1,b:2/m/0?sentinel_password=pw",
            "redis+sentinel://u:***@a:1,b:2/m/0?sentinel_password=***",
        ),
        ("postgresql+psycopg://etl@db/etl?sslpassword=pw", "postgresql+psycopg://etl@db/etl?sslpassword=***"),
        ("redis+sentinel://pw@one,two/m", "redis+sentinel://***@one,two/m"),
        ("rediss+sentinel://pw@one,two/m", "rediss+sentinel://***@one,two/m"),
        ("redis://:p@w/o:r?d#@host/0", "redis://:***@host/0"),
    ],
)
def test_a_redacted_url_keeps_everything_but_the_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://etl@site:secret@host:6379/0",
        "redis+sentinel://etl@site:secret@host:26379/svc",
        "postgresql://etl@server:secret@host:5432/etl",
        "postgresql://do/main:secret@host:5432/etl",
        "postgresql://u:p@h/etl?pass%77ord=secret",
    ],
)
def test_given_any_accepted_url_then_its_password_is_not_shown(url: str) -> None:
    """"""
    with contextlib.suppress(ValueError):
        (check_redis if url.startswith("redis") else check_postgres)(url)
    assert "secret" not in redacted(url)
