"""What the archive needs of a Postgres server and its database, whatever is in it."""

from typing import NamedTuple

import sqlalchemy as sa

from etl.errors import ConfigurationError

OLDEST_MAJOR = 15  # UNIQUE NULLS NOT DISTINCT
# Messages are UTF-8, and have characters that no other encoding of a database has all of. SQL_ASCII takes every byte
# and knows no characters: what is asked of texts there has wrong answers, or none.
ENCODING = "UTF8"

_FACTS = sa.text(
    "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,"
    " current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS is_standby,"
    " current_setting('transaction_read_only') = 'on' AS is_read_only, current_user::text AS me,"
    " (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone') AS time_zone"  # what others of this role get
)


class Server(NamedTuple):
    version: str
    major: int
    encoding: str
    is_standby: bool
    is_read_only: bool
    me: str
    time_zone: str


def server(connection: sa.Connection) -> Server:
    """As it presents itself to this role."""
    return Server(*connection.execute(_FACTS).one())


def check(found: Server) -> None:
    """Raises `ConfigurationError`, with the way out, unless an archive can be made and kept there."""
    for fault in faults(found).values():
        raise fault


def faults(found: Server) -> dict[str, ConfigurationError]:
    """What is wrong with its version, its encoding and its role, by these words. Each ends with the way out."""
    wrong = {}
    if found.major < OLDEST_MAJOR:
        wrong["version"] = ConfigurationError(
            "ETL-330", f"PostgreSQL {found.version} is too old: upgrade it to {OLDEST_MAJOR} or newer"
        )
    if found.encoding != ENCODING:
        wrong["encoding"] = ConfigurationError(
            "ETL-331",
            f"the database's encoding is {found.encoding}, not {ENCODING}:"
            f" make another with CREATE DATABASE … ENCODING '{ENCODING}' TEMPLATE template0",
        )
    if found.is_standby:
        wrong["role"] = ConfigurationError("ETL-332", "this is a standby, which takes no writes: name the primary")
    elif found.is_read_only:
        wrong["role"] = ConfigurationError(
            "ETL-333",
            f"transactions of {found.me} are read-only here:"
            f' ALTER ROLE "{found.me}" SET default_transaction_read_only = off, or ALTER DATABASE',
        )
    return wrong
