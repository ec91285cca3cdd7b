"""The lake, put together from settings, and its nightly jobs. pyarrow comes with it, and 140 MB of memory: so processes
that load don't import this.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from etl import logs
from etl.app.days import first_open_day, last_day_to_drop
from etl.errors import ConfigurationError, EtlError
from etl.jobs import publish
from etl.jobs import sweep as sweeping
from etl.jobs.lake import Lake
from etl.jobs.outcomes import one_by_one
from etl.jobs.sweep import Swept
from etl.lake.datasets import DATASETS
from etl.lake.target import Target
from etl.settings import Settings
from etl.store import connection as store
from etl.store import identities, lake_table, schema
from etl.store.connection import Engine
from etl.text import named

if TYPE_CHECKING:
    from etl.jobs.tables import Tables

log = logs.get()


@contextlib.contextmanager
def open_lake(settings: Settings, tables: bool = False) -> Iterator[Lake]:
    """The archive's lake, as the login that may let days go; with its Iceberg tables if it has any, or if they are what
    it's about. Raises `Outage` and `ConfigurationError`."""
    settings = settings.of_the_lake
    if tables and settings.lake_table is None:
        raise ConfigurationError("ETL-531", "ETL_LAKE_TABLE isn't set: set it to iceberg, and the lake has such tables")
    target = Target(settings.export_url, settings.lake_file_mode)
    engine = store.connect(settings.sqlalchemy_url)
    try:
        schema.check(engine)
        yield Lake(engine, settings.libpq_url, target, settings.worker_name, log, _tables(settings, engine, target))
    finally:
        engine.dispose()


def _tables(settings: Settings, engine: Engine, target: Target) -> "Tables | None":
    if settings.lake_table is None:
        with engine.connect() as connection:
            if any(lake_table.is_kept(connection, name) for name in DATASETS):
                raise lake_table.wanted()
        return None
    if any(each in target.uri for each in "#?"):
        raise ConfigurationError("ETL-533", f"engines take # and ? for parts of a URL: {target.uri} can have no tables")
    try:
        from etl.jobs.tables import Tables  # noqa: PLC0415 (pyiceberg is an extra, and 40 MB of memory)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "ETL-530",
            f"{error.name} isn't installed, and ETL_LAKE_TABLE=iceberg: the extra `iceberg`, which is"
            " pip install 'pyiceberg[pyarrow]>=0.12,<0.13'",
        ) from None
    except Exception as error:  # it reads settings of its own, from files and the environment
        raise ConfigurationError("ETL-536", f"pyiceberg can't be used: {named(error)}") from error
    return Tables(engine, target)


def export(settings: Settings) -> None:
    """Every closed day that changed. This and the others tell in the log what became of each day."""
    before = first_open_day(settings)
    with open_lake(settings) as lake:
        work = [(dataset, books.day) for dataset in DATASETS.values() for books in lake.due(dataset, before)]
        one_by_one(lambda dataset, day: lake.export(dataset, day, _ignore), work, log)
        after_export(settings, lake)


def sweep(settings: Settings) -> None:
    """What nobody needs goes, and plain readers find the current revisions."""
    with open_lake(settings) as lake:
        sweep_lake(settings, lake)


def sweep_lake(settings: Settings, lake: Lake) -> Swept:
    """Raises `EtlError`."""
    return sweeping.sweep(lake, timedelta(days=settings.lake_history_days), log)


def after_export(settings: Settings, lake: Lake, only_tables: bool = False) -> None:
    """The tables of who knew of none, and what else a schedule does every night, for hosts that only have cron. What
    comes of it changes nothing about the export: the log has it."""
    jobs: list[tuple[str, Callable[[], object]]] = [
        ("table", lambda: publish.publish(lake, log)),
        ("sweep", lambda: sweep_lake(settings, lake)),
        ("identities", lambda: identities.forget(lake.engine)),
    ]
    for job, act in jobs[:1] if only_tables else jobs:
        try:
            act()
        except EtlError as error:
            log.error("job_failed", job=job, error=error.text, code=error.code)


def prune(settings: Settings) -> None:
    """Every day that Postgres needn't keep."""
    if settings.keep_days is None:
        raise ConfigurationError("ETL-112", "ETL_KEEP_DAYS isn't set: Postgres keeps everything")
    last = last_day_to_drop(settings.keep_days)
    with open_lake(settings) as lake:
        work = [(dataset, books.day) for dataset in DATASETS.values() for books in lake.prunable(dataset, last)]
        one_by_one(lake.prune, work, log)


def prove(settings: Settings) -> None:
    """One day of all that the lake has, drawn by lot."""
    with open_lake(settings) as lake:
        known = [(dataset, books.day) for dataset in DATASETS.values() for books in lake.exported(dataset)]
        chosen = random.sample(known, min(1, len(known)))
        one_by_one(lambda dataset, day: lake.prove(dataset, day, _ignore), chosen, log)


def _ignore(_rows: int) -> None:
    """By the clock, nobody watches."""
