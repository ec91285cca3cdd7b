"""The schema's revision: the one that this program needs, the one that the database has, and the upgrade.

The migrations travel inside the wheel as `etl/migrations`; in a checkout they lie beside the package.
"""

import functools
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.store import locks, server

if TYPE_CHECKING:
    from alembic.config import Config


def needed() -> str:
    """The revision that this program was written for."""
    return max(_known())


def current(engine: sa.Engine) -> str | None:
    """The revision that the database has; None if it has no schema yet. Raises `Outage` or `ConfigurationError`."""
    with engine.connect() as connection:
        return _revision(connection)


def check(engine: sa.Engine) -> None:
    """Raises `ConfigurationError`, with the way out, unless the database has the schema that this program needs."""
    has, needs = current(engine), needed()
    _check_known(has)
    if has is None:
        raise ConfigurationError("ETL-309", "the database has no schema yet: run `etl db upgrade`")
    if has != needs:
        raise ConfigurationError(
            "ETL-310", f"the database's schema is old ({has}, needed: {needs}): run `etl db upgrade`"
        )


def upgrade(engine: sa.Engine) -> tuple[str | None, str]:
    """Bring the database to the needed revision; returns the revisions before and after. Raises as `current`, and if
    the server or the database is none for an archive."""
    with engine.begin() as connection:
        server.check(server.server(connection))
        locks.wait_for_schema(connection)
        before = _revision(connection)
        _check_known(before)
        if (before or "") < _WITH_TABLES and connection.scalar(
            sa.text("SELECT to_regnamespace('iceberg')")
        ) is not None:
            raise ConfigurationError(
                "ETL-335", "the database has a schema iceberg already, and it isn't etl's: rename it, or move it away"
            )
        if before not in (None, needed()) and connection.scalar(_IS_OWNER):
            # Before any other lock, as loaders do: else each might wait for the other.
            connection.execute(sa.text("LOCK TABLE ONLY cdrs IN SHARE ROW EXCLUSIVE MODE"))
        _migrate(connection)
    return before, needed()


def _revision(connection: sa.Connection) -> str | None:
    if connection.scalar(sa.select(sa.func.to_regclass("alembic_version"))) is None:
        return None
    revisions = connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all()
    if len(revisions) > 1:
        heads = ", ".join(sorted(revisions))
        raise ConfigurationError(
            "ETL-312", f"table alembic_version has {len(revisions)} heads ({heads}), and of ours one: delete the others"
        )
    revision = next(iter(revisions), None)
    if revision is not None and not _is_ours(connection, revision):
        raise ConfigurationError(
            "ETL-334",
            f"table alembic_version is another program's (revision {revision}): give the archive a database of its own",
        )
    return revision


# From this revision on the schema of Iceberg's catalog is ours.
_WITH_TABLES = "0026"
# Nobody else can upgrade, and the first migration says so.
_IS_OWNER = sa.text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('cdrs')")
# Of those that have been there from the first revision on, names that nobody else would think of.
_LEDGER = ("load_batches", "load_batch_days")


def _is_ours(connection: sa.Connection, revision: str) -> bool:
    """Others number their revisions too, and have none of our tables."""
    has = (connection.scalar(sa.select(sa.func.to_regclass(name))) is not None for name in _LEDGER)
    return re.fullmatch("[0-9]{4}", revision) is not None and any(has)


def _check_known(revision: str | None) -> None:
    if revision is not None and revision not in _known():
        raise ConfigurationError(
            "ETL-311",
            f"the database's schema ({revision}) is newer than this program ({needed()}): install a newer etl",
        )


@functools.cache
def _known() -> frozenset[str]:
    """By the files' names, which begin with the revision: every process asks, and only upgrades need Alembic."""
    return frozenset(path.name[:4] for path in (_folder() / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


def _migrate(connection: sa.Connection) -> None:
    from alembic import command  # noqa: PLC0415  (see above)

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> "Config":
    from alembic.config import Config  # noqa: PLC0415  (see above)

    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    return config


def _folder() -> Path:
    shipped = Path(str(files("etl"))) / "migrations"
    return shipped if shipped.is_dir() else Path(str(files("etl"))).parent / "migrations"
