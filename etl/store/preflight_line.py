"""How the line to Postgres is protected, by the session itself, for `etl check`: what URL, environment, service file
and libpq's own defaults come to together."""

import os
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, cast

import psycopg

from etl.findings import Finding, Line, encryption
from etl.store.connection import Engine

# libpq's sslmodes that are less than verify-full, and what each does without.
_MODES = {
    "disable": "TLS is never used",
    "allow": "TLS is used only if the server insists on it",
    "prefer": "without TLS is as good, and nobody looks whose certificate it is",
    "require": "nobody looks whose certificate it is: another server could answer, and hear the password",
    "verify-ca": "the certificate may be any other host's of the same CA",
}
_LEAST_VERSION = "tlsv1.2"  # is libpq's own default, in small letters; the names of the versions sort by age
# Options, by which value each weakens TLS, and what is lost by it.
_WEAK: dict[str, tuple[Callable[[str], bool], str]] = {
    "ssl_min_protocol_version": (
        lambda value: value.lower() < _LEAST_VERSION,
        "versions of TLS that are broken are allowed",
    ),
    "ssl_max_protocol_version": (
        lambda value: bool(value) and value.lower() < _LEAST_VERSION,
        "only broken versions are allowed",
    ),
    "channel_binding": (lambda value: value == "disable", "nobody looks whether the password's proof was passed on"),
    "sslkeylogfile": (bool, "the keys of every session are written to a file"),
}


def finding(engine: Engine, store: str = "Postgres") -> Finding:
    with engine.connect() as connection:
        session = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        options = {each.keyword.decode(): (each.val or b"").decode() for each in session.pgconn.info}
        line = _line(session, options)
        is_said = "sslmode" in engine.url.query or "PGSSLMODE" in os.environ
        # On this machine it may do without, unless somebody names a CA.
        weakened = _weaknesses(options, is_said) if line != "local" or options.get("sslrootcert") else []
        return encryption(store, line, "ETL_DATABASE_CA_FILE", weakened)


def _line(session: "psycopg.Connection[Any]", options: dict[str, str]) -> Line:
    if session.pgconn.ssl_in_use:
        return "verified" if options["sslmode"] == "verify-full" else "unverified"
    address = session.pgconn.hostaddr  # none, over a socket
    return "local" if not address or ip_address(address.decode()).is_loopback else "plain"


def _weaknesses(options: dict[str, str], is_mode_said: bool) -> list[str]:
    """`prefer` is what libpq does if nobody says anything: no TLS was asked for then, unless a CA is named."""
    mode, has_ca = options["sslmode"], bool(options.get("sslrootcert"))
    found = []
    if mode == "require" and has_ca:
        found.append(f"sslmode=require: {_MODES['verify-ca']}")  # which libpq takes it for then
    elif mode in _MODES and (mode != "prefer" or is_mode_said or has_ca):
        found.append(f"sslmode={mode}: {_MODES[mode]}")
    for name, (is_weak, loss) in _WEAK.items():
        if name in options and is_weak(options[name]):
            found.append(name if name == "sslkeylogfile" else f"{name}={options[name]}: {loss}")
    return found
