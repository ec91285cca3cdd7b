"""The URLs of stores: parsed, checked, converted to a form that all drivers read, and shown without passwords. Several
hosts are separated by commas, as libpq and sentinels have it; urllib doesn't support that. No error quotes any part of
a URL: it may be a password."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode

POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
TLS_SCHEMES = ("rediss", "rediss+sentinel")

# The name of a server in rows and log lines: its characters, and how many at most.
SERVER_NAME = r"[A-Za-z0-9._:/@\[\]-]"
SERVER_NAME_LENGTH = 200
SERVER_NAMES = f"^{SERVER_NAME}{{1,{SERVER_NAME_LENGTH}}}$"

_POSTGRES_PORT = 5432  # libpq's default
_MALFORMED = "isn't a well-formed URL (are the special characters of its password percent-encoded?)"
_HOST = re.compile(r"(?P<host>\[[^\[\]@/,]*\]|[^\[\]:@/,]*)(:(?P<port>[0-9]*))?")


class Host(NamedTuple):
    """`name` is decoded and without brackets. No name or port: the driver's default."""

    name: str
    port: int | None


class Url(NamedTuple):
    """`credentials` and the rest are as they were written."""

    scheme: str
    credentials: str | None
    hosts: tuple[Host, ...]
    path: str
    query: str

    @property
    def options(self) -> dict[str, list[str]]:
        return parse_qs(self.query, keep_blank_values=True)


def split(url: str) -> Url:
    """Raises ValueError."""
    scheme, _, rest = url.partition("://")
    if "#" in rest:
        raise ValueError(_MALFORMED)
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    return Url(scheme, credentials if at else None, tuple(map(_host, hosts.split(","))), slash + path, query)


def check_redis(url: str) -> None:
    """Raises ValueError."""
    _check_scheme(url, REDIS_SCHEMES)
    if url.startswith(tuple(f"{scheme}://" for scheme in SENTINEL_SCHEMES)):
        _check_sentinels(url)
        return
    parts = split(url)
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("lacks the socket's path: unix:///run/redis.sock")
    if len(parts.hosts) > 1:
        raise ValueError("names several hosts: one of a cluster is enough, and sentinels take redis+sentinel://")
    # redis-py silently uses database 0 if this isn't a number.
    if parts.scheme != "unix" and not re.fullmatch("/?[0-9]*", parts.path):
        raise ValueError("names a database that isn't a number")


def check_postgres(url: str) -> None:
    """Raises ValueError."""
    _check_scheme(url, POSTGRES_SCHEMES)
    of_libpq(url)


def of_libpq(url: str) -> str:
    """The part behind `://`, for libpq and SQLAlchemy alike. Several hosts become options (`?host=a,b&port=1,2`), since
    SQLAlchemy doesn't know libpq's form; each gets a port, since the two match ports to hosts differently.

    Raises ValueError.
    """
    parts = split(url)
    pairs = [pair for pair in parts.query.split("&") if pair]
    options = {name: values[-1] for name, values in parts.options.items()}
    for name in ("host", "port"):
        if len(parts.options.get(name, ())) > 1:
            raise ValueError(f"names {name} more than once: several go into one, as in ?host=a,b&port=5432,5433")
    hosts, ports = _hosts_and_ports(parts, options)
    if len(hosts) < 2:  # libpq takes a colon without a port, and SQLAlchemy doesn't
        return re.sub(r"^((?:.*@)?[^@]*?):(?=[/?]|$)", r"\1", url.partition("://")[2], count=1)
    places = [f"host={quote(','.join(hosts), safe=',:/')}", f"port={','.join(map(str, ports))}"]
    rest = [pair for pair in pairs if unquote(pair.partition("=")[0]) not in ("host", "port")]
    credentials = "" if parts.credentials is None else f"{parts.credentials}@"
    return f"{credentials}{parts.path or '/'}?{'&'.join([*places, *rest])}"


def with_options(url: str, options: Mapping[str, object]) -> str:
    """The URL with those options added that it lacks."""
    has = split(url).options
    added = urlencode({name: value for name, value in options.items() if name not in has}, safe="/", quote_via=quote)
    return f"{url}{'&' if has else '?'}{added}" if added else url


def redacted(url: str) -> str:
    """The URL without its passwords: `redis://loader:***@host/0?password=***`.

    Where a password isn't percent-encoded, more than the password may be hidden, never less.
    """
    front, asks, query = url.partition("?")
    shown = [f"{pair.partition('=')[0]}=***" if _is_password(pair) else pair for pair in query.split("&")]
    scheme, _, rest = f"{front}{asks}{'&'.join(shown)}".partition("://")
    credentials, at, place = rest.rpartition("@")
    user, has_password, _ = credentials.partition(":")
    if not has_password and scheme.endswith("+sentinel"):
        user = "***" if credentials else user  # no user there: it's a password
    return f"{scheme}://{user}{':***' if has_password else ''}{at}{place}"


def _is_password(pair: str) -> bool:
    return "password" in unquote(pair.partition("=")[0]).lower()


def server_name(url: str) -> str:
    """host:port/db of a Redis URL, path/db of a socket, the service's name of sentinels; never credentials."""
    parts = split(url)
    if parts.scheme in SENTINEL_SCHEMES:
        name = unquote(parts.path.strip("/").partition("/")[0])
    elif parts.scheme == "unix":
        name = f"{unquote(parts.path)}/{parts.options.get('db', ['0'])[-1]}"
    else:
        host = parts.hosts[0].name.lower() or "localhost"
        name = f"{f'[{host}]' if ':' in host else host}:{parts.hosts[0].port or 6379}/{parts.path.strip('/') or 0}"
    return re.sub(SERVER_NAME.replace("[", "[^", 1), "-", name)[:SERVER_NAME_LENGTH] or "redis"


def _check_scheme(url: str, schemes: tuple[str, ...]) -> None:
    if "://" not in url or url.partition("://")[0] not in schemes:
        raise ValueError(f"must begin with {', '.join(f'{each}://' for each in schemes[:-1])} or {schemes[-1]}://")


def _check_sentinels(url: str) -> None:
    if "#" in url:
        raise ValueError(_MALFORMED)
    try:
        parts = split(url)
        fits = all(host.name for host in parts.hosts) and re.fullmatch("/[^/]+(/[0-9]*)?", parts.path)
    except ValueError:
        fits = None
    if not fits:
        raise ValueError("must look like redis+sentinel://host:26379,host:26379/service/0") from None


def _host(text: str) -> Host:
    found = _HOST.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        name = unquote(found["host"])
        if name.startswith("["):
            name = name[1:-1]
            ip_address(name)
        port = int(found["port"]) if found["port"] else None
        if port is not None and port >= 2**16:
            raise ValueError
    except ValueError:
        raise ValueError(_MALFORMED) from None
    return Host(name, port)


def _hosts_and_ports(parts: Url, options: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """As with libpq the query's options win, unless that would leave out some of several hosts."""
    hosts, ports = [host.name for host in parts.hosts], [host.port for host in parts.hosts]
    if len(hosts) > 1 and ("host" in options or ("port" in options and any(ports))):
        raise ValueError("names its hosts or their ports twice: before the database's name and behind the ?")
    if "host" in options:
        hosts = options["host"].split(",")
    if "port" in options:
        ports = [_port(text) for text in options["port"].split(",")]
    if len(hosts) > 1 and len(ports) == 1:
        ports *= len(hosts)
    if len(hosts) != len(ports):
        raise ValueError(f"names {len(hosts)} hosts and {len(ports)} ports: name a port for each host, or one for all")
    return hosts, [port or _POSTGRES_PORT for port in ports]


def _port(text: str) -> int | None:
    if not re.fullmatch("[0-9]*", text) or int(text or 0) >= 2**16:
        raise ValueError("names a port that isn't a number from 1 to 65535")
    return int(text) if text else None
