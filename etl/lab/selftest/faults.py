"""Carries out a plan: each target has a thread, which does its faults one after the other."""

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Protocol

from etl.errors import EtlError
from etl.lab.proxy import Proxy, Recognises
from etl.lab.selftest.calls import CDRS
from etl.lab.selftest.plan import (
    FAIL_OVER,
    HOST_CLOCK,
    LAKE_TARGET,
    POSTGRES,
    POSTGRES_WIRE,
    REDIS,
    REDIS_CLOCK,
    REDIS_WIRE,
    SET_BACKS,
    SOURCE_KEY,
    Fault,
)
from etl.lab.selftest.processes import Exporter
from etl.lab.selftest.set_backs import SetBacks
from etl.lab.selftest.site import Site
from etl.lab.servers.clock import SEEN_WITHIN_SECONDS
from etl.lab.servers.process import wait_until

# More than a day: with the host's clock so slow every call of yesterday lies too far ahead.
STEP_SECONDS = 3 * 86_400.0
MEND_SECONDS = 60.0  # Redis may be down just then
LATE_SECONDS = 5.0  # a fault whose turn comes later than that doesn't take place: else many would follow at once


class Victim(Protocol):
    """A server or a program."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class Saboteur:
    """`suffered` counts the faults that took place, by target and kind."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._enough = threading.Event()
        self.set_backs = SetBacks(site, self._enough)
        # From the moment that a store may lack something until it's whole again. Meanwhile nothing befalls Redis that
        # rightly costs what it keeps of acknowledged claims: no full memory, and no clock by which their time is over.
        self._is_forgetting = threading.Lock()
        self.suffered: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def at_work(self, plan: Sequence[Fault]) -> Iterator[None]:
        """Starts; at the end waits for the last fault, after which everything is up. Raises whatever kept a victim from
        being started again."""
        began = time.monotonic()
        by_target = [list(faults) for _, faults in groupby(sorted(plan, key=_target), key=_target)]
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(len(by_target) or 1, "saboteur"))
            working = [pool.submit(self._work_on, faults, began) for faults in by_target]
            try:
                yield
            except BaseException:
                self._enough.set()
                raise
        for each in working:
            each.result()

    def _work_on(self, faults: Sequence[Fault], began: float) -> None:
        for fault in faults:
            if self._enough.wait(max(0.0, began + fault.at - time.monotonic())):
                return
            with self._is_forgetting if _is_exclusive(fault) else nullcontext():
                if time.monotonic() - began - fault.at > LATE_SECONDS:
                    continue
                took_place = self._carry_out(fault)
            if took_place:
                self.suffered[fault.target, fault.kind] += 1

    def _carry_out(self, fault: Fault) -> bool:
        """False if the fault was not possible: the command to be lost did not come in time, for instance."""
        special: dict[str, Callable[[Fault], bool]] = {
            REDIS_WIRE: lambda fault: self._on_a_wire(self._site.redis_wire, fault),
            POSTGRES_WIRE: lambda fault: self._on_a_wire(self._site.postgres_wire, fault),
            LAKE_TARGET: lambda fault: self._lock_the_lake(fault.seconds),
            HOST_CLOCK: self._step,
            REDIS_CLOCK: self._step,
            SOURCE_KEY: lambda fault: self._break_a_list(fault.seconds),
        }
        if fault.target in special:
            return special[fault.target](fault)
        if fault.kind in (*SET_BACKS, FAIL_OVER):
            return self.set_backs.carry_out(fault)
        if fault.kind == "fill":
            return self._fill_redis(fault.seconds)
        victim = self._victim(fault.target)
        if isinstance(victim, Exporter) and fault.kind == "kill":
            return victim.kill_in(fault.seconds)
        harm, mend = {
            "kill": (victim.kill, victim.start),
            "stop": (victim.stop, victim.start),
            "freeze": (victim.freeze, victim.thaw),
        }[fault.kind]
        harm()
        self._enough.wait(fault.seconds)
        mend()
        return True

    def _victim(self, target: str) -> Victim:
        redis, postgres = self._site.servers.redis, self._site.servers.postgres
        servers: dict[str, Victim] = {REDIS: redis.server} if redis else {}
        servers |= {POSTGRES: postgres.server} if postgres else {}
        return servers.get(target) or self._site.programs[target]

    def _fill_redis(self, seconds: float) -> bool:
        """Its memory limit is reached: it refuses whatever needs more."""
        with suppress(EtlError):
            self._site.limit_redis(1)
            self._enough.wait(seconds)
            self._site.limit_redis(0)
            return True
        return False

    def _break_a_list(self, seconds: float) -> bool:
        """A hash is where a source list was: who reads and pushes is refused. It's mended whatever befalls Redis."""
        broken = False
        with suppress(EtlError):
            self._site.break_list(CDRS)
            broken = True
        self._enough.wait(seconds)

        def mended() -> bool:
            with suppress(EtlError):
                self._site.mend_list(CDRS)
                return True
            return False

        return wait_until(mended, MEND_SECONDS) and broken

    def _step(self, fault: Fault) -> bool:
        """Set a clock back, and right again."""
        clock = self._site.host_clock if fault.target == HOST_CLOCK else self._site.servers.redis_clock
        if clock is None or clock.library() is None:
            return False
        clock.step(-STEP_SECONDS)
        self._enough.wait(fault.seconds + SEEN_WITHIN_SECONDS)
        clock.step(0)
        return True

    def _lock_the_lake(self, seconds: float) -> bool:
        """Its folders are read-only, as if the disk were full; not for root, whom modes don't bind."""
        root = Path(self._site.settings.export_url)
        if os.geteuid() == 0 or not root.is_dir():
            return False
        folders = [root, *(each for each in root.rglob("*") if each.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        self._enough.wait(seconds)
        for folder in folders:
            folder.chmod(0o755)
        return True

    def _on_a_wire(self, wire: Proxy, fault: Fault) -> bool:
        if fault.kind.startswith("lose"):
            _, _, what, _, verb = fault.kind.split()
            cuts = wire.cuts
            wire.cut(_VERBS[verb](), lose_command=what == "command")
            happened = wait_until(lambda: wire.cuts > cuts, fault.seconds)
            wire.cut(None)
            return happened
        harm: dict[str, Callable[[], None]] = {"cut": wire.part, "silence": wire.blackhole}
        harm[fault.kind]()
        self._enough.wait(fault.seconds)
        wire.heal()
        return True


def _is_exclusive(fault: Fault) -> bool:
    return fault.kind in (*SET_BACKS, FAIL_OVER, "fill") or fault.target == REDIS_CLOCK


def _script(name: str) -> Recognises:
    """Recognises a command that runs this script of the inbox."""
    text = files("etl.inbox").joinpath("lua", f"{name}.lua").read_text()
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
    return lambda sent: digest in sent


def _commit_of_a_claim() -> Recognises:
    """Recognises the first COMMIT after a claim was entered into the ledger: nearly always that claim's."""
    entered = False

    def is_commit(sent: bytes) -> bool:
        nonlocal entered
        entered = entered or b"INSERT INTO load_batches " in sent
        return entered and sent.startswith(b"Q") and b"COMMIT" in sent

    return is_commit


_VERBS: dict[str, Callable[[], Recognises]] = {
    "claim": lambda: _script("claim"),
    "ack": lambda: _script("ack"),
    "commit": _commit_of_a_claim,
}


def _target(fault: Fault) -> str:
    return fault.target
