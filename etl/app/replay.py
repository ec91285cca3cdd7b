"""How dead letters are replayed, put together from settings."""

from collections.abc import Callable
from functools import partial

from etl.app import database
from etl.app.sources import decoders_of, forget_key
from etl.jobs.replay import NewDays, Replayed
from etl.jobs.replay import replay as replay_groups
from etl.settings import Settings
from etl.store import dead_letters, partitions
from etl.store.dead_letters import Wanted
from etl.store.pinned import LOADING
from etl.store.tables import cdrs
from etl.store.writer import Writer


def replay_dead_letters(
    settings: Settings, wanted: Wanted, progress: Callable[[int], None], any_day: int | None = None
) -> Replayed:
    """`any_day` lets calls in that are older than `oldest_days`, on at most so many days that are new. Raises
    `Outage` and `ConfigurationError`; what was done until then is done."""
    if any_day is not None:
        settings = settings.model_copy(update={"oldest_days": 0})
    with database.opened(settings, LOADING) as engine:
        return replay_groups(
            dead_letters.groups(engine, wanted, settings.batch_size),
            decoders_of(settings),
            Writer(engine, forget_key(settings)),
            worker=settings.worker_name,
            server=settings.server,
            progress=progress,
            new_days=None if any_day is None else NewDays(any_day, partial(partitions.missing, engine, cdrs)),
        )
