"""How people are forgotten, put together from settings."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from etl.app.database import engine_of
from etl.app.lake import open_lake
from etl.errors import ConfigurationError
from etl.jobs import forget
from etl.jobs.forget import Found, Work
from etl.jobs.lake import Lake
from etl.jobs.remains import Progress
from etl.lake import receipts
from etl.settings import Settings
from etl.store import forget as store
from etl.store.connection import Engine
from etl.store.forget import Receipt
from etl.wire.erasure import HASH_PREFIX, Person, mark


@dataclass(frozen=True, slots=True)
class Forgetting:
    """One person, one archive; `days` are those to be looked at."""

    person: Person
    days: Work
    _engine: Engine
    _lake: Lake
    _key: str
    _worker: str

    def count(self, told: Callable[[int], None], progress: Progress = lambda *_: None) -> Found:
        """What would be rewritten, and what the search finds; nothing is changed. `told` hears of each day's rows, and
        `progress` of each place that is searched."""
        return forget.count(self._engine, self._lake, self.person, self.days, told, progress)

    def run(self, told: Callable[[int], None], progress: Progress = lambda *_: None) -> tuple[Receipt, Found]:
        """Rewrite it, and search all of it. May be run again at any time, and completes what was begun."""
        receipts = [
            forget.begin(self._engine, self._lake, self.person.by, hash_, self._key, self._worker)
            for hash_ in self.person.hashes
        ]
        found = forget.run(self._engine, self._lake, self.person, receipts, self._worker, self.days, told)
        forget.prove(self._engine, self._lake, [(self.person, receipts, found)], progress)
        return receipts[0], found


@contextlib.contextmanager
def open_forgetting(
    settings: Settings, number: str | None, contact: str | None, also: Iterable[str] = ()
) -> Iterator[Forgetting]:
    """By one of the two; `also` has other spellings of it. Raises `ConfigurationError` if key or rights are missing,
    before anything is changed; and `EtlError`."""
    key = _key(settings)
    person = Person(key, number, contact, also)
    with open_lake(settings) as lake, engine_of(settings) as engine:
        store.check_rights(engine)
        yield Forgetting(person, forget.work(lake), engine, lake, key, settings.worker_name)


def forget_again(settings: Settings, progress: Progress = lambda *_: None) -> list[Found]:
    """Whoever was forgotten by the receipts in the lake and came back as Postgres was set back, or was never forgotten
    wholly; one of each receipt, and one search for all of them. What fails is done by the next call. Raises as
    `open_forgetting`."""
    key, worker = _key(settings), settings.worker_name
    with open_lake(settings) as lake, engine_of(settings) as engine:
        store.check_rights(engine)
        wanted = lake.unfinished_receipts()
        if others := receipts.of_another_key(lake.target, wanted, mark(key)):
            raise ConfigurationError(
                "ETL-116",
                f"{len(others)} receipts in the lake were made with another ETL_FORGET_KEY: without it there is no"
                " telling whose they are",
            )
        in_order = sorted((each.subject, f"{HASH_PREFIX}{each.hash}", each.number) for each in wanted)
        people = forget.people(engine, lake, key, {(subject, hash_) for subject, hash_, _ in in_order})
        erased, nowhere = [], 0
        for subject, hash_, _ in in_order:
            receipt = forget.begin(engine, lake, subject, hash_, key, worker)
            if person := people.get((subject, hash_)):
                found = forget.run(engine, lake, person, [receipt], worker, forget.work(lake), lambda _: None)
                erased.append((person, [receipt], found))
            else:
                store.complete(engine, [receipt])
                nowhere += 1
        forget.prove(engine, lake, erased, progress)
        return [found for _, _, found in erased] + [Found()] * nowhere


def _key(settings: Settings) -> str:
    if settings.forget_key is None:
        raise ConfigurationError(
            "ETL-113",
            "ETL_FORGET_KEY isn't set: what replaces a person's number is a hash by this key, a secret of 32 characters"
            " or more that stays the same, as from `openssl rand -hex 32`",
        )
    return settings.forget_key.get_secret_value()
