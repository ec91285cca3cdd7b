"""How the stores stand, looked at time and again by a thread with connections of its own."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

from etl import app
from etl.errors import EtlError
from etl.metrics import BACKLOG, POSTGRES_UP, REDIS_UP, Gauge, Gauges, Labels
from etl.settings import Settings
from etl.store import schema

LOOK_EVERY_SECONDS = 10.0
# What was seen longer ago than this isn't how it stands: the thread waits for a store that doesn't answer.
STALE_SECONDS = 60.0


class Observer:
    """`gauges` are those of the last look; without those of a store that didn't answer."""

    def __init__(self, settings: Settings) -> None:
        self.gauges: Gauges = {}
        self._settings = settings
        self._stop = threading.Event()
        self._troubles: list[str] = ["the stores haven't been asked yet"]
        self._looked_at = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Looks as long as the context lasts."""
        threading.Thread(target=self._run, name="observer", daemon=True).start()
        try:
            yield
        finally:
            self._stop.set()

    def troubles(self) -> list[str]:
        """What is wrong with the stores, in a line each; empty if they are fine."""
        stale = time.monotonic() - self._looked_at
        return [*self._troubles, *([f"the last look at the stores was {stale:.0f} s ago"] * (stale > STALE_SECONDS))]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with app.stores(self._settings) as clients:
                    while not self._stop.is_set():
                        self._look(clients)
                        self._stop.wait(LOOK_EVERY_SECONDS)
            except EtlError as error:  # a cluster is asked for its slots at once
                self._found({REDIS_UP: {(): 0.0}}, [str(error)])
                self._stop.wait(LOOK_EVERY_SECONDS)

    def _look(self, clients: app.Stores) -> None:
        gauges: dict[Gauge, Mapping[Labels, float]] = {}
        troubles = []
        for up, look in ((REDIS_UP, self._redis), (POSTGRES_UP, self._postgres)):
            try:
                gauges |= {**look(clients), up: {(): 1.0}}
            except EtlError as error:
                gauges[up] = {(): 0.0}
                troubles.append(str(error))
        self._found(gauges, troubles)

    def _found(self, gauges: Gauges, troubles: list[str]) -> None:
        self.gauges, self._troubles, self._looked_at = gauges, troubles, time.monotonic()

    def _redis(self, clients: app.Stores) -> Gauges:
        return {BACKLOG: {(source.key,): source.waiting() for source in app.sources(self._settings, clients)}}

    def _postgres(self, clients: app.Stores) -> Gauges:
        schema.check(clients.engine)
        return {}
