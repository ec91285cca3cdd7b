"""How dead letters are replayed, put together from settings."""

from collections.abc import Callable

from etl.app import database
from etl.app.sources import decoders_of
from etl.jobs.replay import Replayed
from etl.jobs.replay import replay as replay_groups
from etl.settings import Settings
from etl.store import dead_letters
from etl.store.dead_letters import Wanted
from etl.store.pinned import LOADING
from etl.store.writer import Writer


def replay_dead_letters(settings: Settings, wanted: Wanted, progress: Callable[[int], None]) -> Replayed:
    """Raises `Outage` and `ConfigurationError`; what was done until then is done."""
    with database.opened(settings, LOADING) as engine:
        return replay_groups(
            dead_letters.groups(engine, wanted, settings.batch_size),
            decoders_of(settings),
            Writer(engine),
            worker=settings.worker_name,
            server=settings.server,
            progress=progress,
        )
