"""Faults that make a store forget or change its server: and after each, whether all that was confirmed is there again.

What Postgres confirmed is remembered from the server that is about to go, and looked for on the one that came after
it: by claims, each of which is in the ledger together with its rows, and by events and dead letters. What isn't there
is Redis' to bring back, from what it keeps.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from etl.errors import EtlError
from etl.lab.oracle import Effects, effects, lacking
from etl.lab.selftest.plan import FAIL_OVER, PROMOTE, RESTART_AND_PROMOTE, RESTORE, Fault
from etl.lab.selftest.site import Site
from etl.lab.servers.private import PostgresService, PrivatePostgres
from etl.lab.servers.process import wait_until

RECALLED_SECONDS = 120.0  # until it's all there again; other faults befall the same installation meanwhile
LOOK_SECONDS = 0.5
LAG_SECONDS = 20.0  # at most, until there is something to lack
RESTARTS = 3
COMMIT_SECONDS = 8.0  # until a commit waits for the standby
TOLD_AS = b"postgres_set_back"

# Not of the days that may be pruned meanwhile: a clock that is set back stamps events with such a day.
_EVENTS = "SELECT payload ->> 'serial' FROM audit_events WHERE captured_on >= (now() AT TIME ZONE 'UTC')::date - 1"
_QUESTIONS = {
    "claims": "SELECT batch_id FROM load_batches WHERE source_key <> 'lake'",
    "list events": f"{_EVENTS} AND origin = 'list'",
    "published events": f"{_EVENTS} AND origin = 'pubsub'",
    "dead letters": "SELECT encode(raw, 'hex') FROM dead_letters",
}


class SetBack(NamedTuple):
    """`lacked` is how much of what was confirmed the server lacked that came next, `lost` how much it lacks for good,
    by kind; `told` whether it was reported in the log and in the table that `etl status` reads. None: needn't be,
    since none of it was acknowledged in Redis, as after a wait for a standby that never ended."""

    kind: str
    lacked: Mapping[str, int]
    lost: Mapping[str, int]
    told: bool | None


class SetBacks:
    """Of one site; `made` are those after which something was lacking. When `enough` is set, they make haste."""

    def __init__(self, site: Site, enough: threading.Event) -> None:
        self._site = site
        self._postgres = site.servers.postgres
        self._redis = site.servers.redis
        self._enough = enough
        self.made: list[SetBack] = []

    def carry_out(self, fault: Fault) -> bool:
        """False if it wasn't possible just then."""
        if fault.kind == FAIL_OVER:
            return self._fail_over_redis()
        if self._postgres is None:
            return False
        how = {PROMOTE: _promote, RESTART_AND_PROMOTE: _restart_and_promote, RESTORE: _restore}
        return how[fault.kind](self, self._postgres, fault)

    def _fail_over_redis(self) -> bool:
        if self._redis is not None:
            self._redis.fail_over()
        return self._redis is not None

    def after(
        self, kind: str, service: PostgresService, change: Callable[[], None], standby: PrivatePostgres | None = None
    ) -> None:
        """Change the server, and hold it against what the former one has confirmed. A `standby`, which doesn't hear of
        anything new, is asked before: loaders may recall as soon as they can reach it."""
        told, acked, confirmed = self._told(), self._acknowledged(), _effects(service.server)
        noted, had = _noted(standby or service.server), _effects(standby) if standby else None
        change()
        has = had or _effects(service.server)
        lacked = lacking(confirmed, has)
        if not any(lacked.values()):
            return
        is_to_tell = bool(acked & (confirmed["claims"] - has["claims"]).keys())

        def is_told() -> bool:
            return self._told() > told and _noted(service.server) > noted

        def is_whole() -> bool:
            time.sleep(LOOK_SECONDS)
            return (is_told() or not is_to_tell) and not any(lacking(confirmed, _effects(service.server)).values())

        is_well = wait_until(is_whole, RECALLED_SECONDS)
        lost = {} if is_well else lacking(confirmed, _effects(service.server))
        self.made.append(SetBack(kind, lacked, lost, (is_well or is_told()) if is_to_tell else None))

    def lag(self, service: PostgresService, seconds: float, has: int) -> None:
        """For so long, and until more claims are in the ledger than it `has` already: loaders may stand still."""
        self._enough.wait(seconds)
        wait_until(lambda: self._enough.is_set() or _claims(service.server) > has, LAG_SECONDS)

    def _told(self) -> int:
        return sum(log.read_bytes().count(TOLD_AS) for log in self._site.folder.glob("*.log"))

    def _acknowledged(self) -> set[str]:
        """Claims, by Redis; none while it's away."""
        with suppress(EtlError):
            return self._site.acknowledged()
        return set()


def _promote(of: SetBacks, service: PostgresService, fault: Fault) -> bool:
    standby = service.follow()
    standby.wire.blackhole()
    of.lag(service, fault.seconds, _claims(standby))
    of.after(fault.kind, service, lambda: service.fail_over(standby), standby)
    return True


def _restart_and_promote(of: SetBacks, service: PostgresService, fault: Fault) -> bool:
    """The restart makes visible what the standby never confirmed; who finds it there must wait all the same."""
    standby = service.follow()
    service.wait_for_a_standby()
    standby.wire.blackhole()
    has, happened = _claims(standby), False
    for _ in range(RESTARTS):
        happened |= wait_until(lambda: bool(service.waiting()), COMMIT_SECONDS)
        service.server.kill()
        service.server.start()
        if _claims(service.server) > has:  # else somebody else's commit waited
            break
    time.sleep(fault.seconds)
    of.after(fault.kind, service, lambda: service.fail_over(standby), standby)
    return happened


def _restore(of: SetBacks, service: PostgresService, fault: Fault) -> bool:
    backup = service.back_up()
    of.lag(service, fault.seconds, _claims(service.server))
    of.after(fault.kind, service, lambda: service.restore(backup, forks=random.random() < 0.5))
    return True


def _effects(server: PrivatePostgres) -> Effects:
    return effects(server, _QUESTIONS)


def _claims(server: PrivatePostgres) -> int:
    return int(server.ask("SELECT count(*) FROM load_batches")[0])


def _noted(server: PrivatePostgres) -> int:
    return int(server.ask("SELECT count(*) FROM set_backs")[0])
