"""How the line to Redis is protected, by its URL and by the environment, for `etl check`."""

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address

from etl import urls
from etl.findings import Line

# Options, the value of each that takes away from what rediss:// alone gives, and what is lost by it. A client takes
# "optional" of `ssl_cert_reqs` for "required". What else redis-py would take is refused: see `etl.inbox.connection`.
_WEAK = (
    (
        "ssl_cert_reqs",
        "none",
        "nobody looks whose certificate it is: another server could answer, and hear the password",
    ),
    ("ssl_check_hostname", "false", "the certificate may be any other host's"),
)


def line(url: str) -> Line:
    """By its URL alone."""
    parts = urls.split(url)
    if parts.scheme in urls.TLS_SCHEMES:
        return "unverified" if weaknesses(url, {}) else "verified"
    return "local" if parts.scheme == "unix" or all(_is_here(host.name) for host in parts.hosts) else "plain"


def weaknesses(url: str, environ: Mapping[str, str]) -> list[str]:
    """What weakens the TLS that the URL asks for, and what is lost by it."""
    parts = urls.split(url)
    if parts.scheme not in urls.TLS_SCHEMES:
        return []
    # Which counts of a name that is given twice is redis-py's to say: any will do here.
    found = [f"{name}={value}: {loss}" for name, value, loss in _WEAK if value in parts.options.get(name, [])]
    if environ.get("SSLKEYLOGFILE"):  # which Python's TLS obeys
        found.append("SSLKEYLOGFILE: the keys of every session are written to a file")
    return found


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
