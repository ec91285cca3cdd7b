"""Carries out a plan: each target suffers its faults one after the other, in a thread of its own, while the others
suffer theirs.
"""

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Protocol

from etl.errors import EtlError
from etl.lab.proxy import Heard, Proxy
from etl.lab.selftest.plan import LAKE, POSTGRES, POSTGRES_WIRE, REDIS, REDIS_WIRE, Fault
from etl.lab.selftest.processes import Exporter
from etl.lab.selftest.site import Site
from etl.lab.servers.process import wait_until


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
        self.suffered: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def at_work(self, plan: Sequence[Fault]) -> Iterator[None]:
        """From now on; at the end waits for the last fault, and everything is up and answers. Raises whatever kept a
        victim from being started again."""
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
            if self._carry_out(fault):
                self.suffered[fault.target, fault.kind] += 1

    def _carry_out(self, fault: Fault) -> bool:
        """False if it didn't come to it: what was to be broken didn't happen in time."""
        if fault.target in (REDIS_WIRE, POSTGRES_WIRE):
            wire = self._site.redis_wire if fault.target == REDIS_WIRE else self._site.postgres_wire
            return self._on_a_wire(wire, fault)
        if fault.target == LAKE:
            return self._lock_the_lake(fault.seconds)
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
        servers: dict[str, Victim | None] = {REDIS: self._site.servers.redis, POSTGRES: self._site.servers.postgres}
        return servers.get(target) or self._site.programs[target]

    def _fill_redis(self, seconds: float) -> bool:
        """Every byte that it may have is taken: it refuses whatever would need one more."""
        with suppress(EtlError):
            self._site.limit_redis(1)
            self._enough.wait(seconds)
            self._site.limit_redis(0)
            return True
        return False

    def _lock_the_lake(self, seconds: float) -> bool:
        """Nobody may write into its folders, as if the disk were full; root may, who knows no such bounds."""
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


def _script(name: str) -> Heard:
    """Knows a command that runs this script of the inbox."""
    text = files("etl.inbox").joinpath("lua", f"{name}.lua").read_text()
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
    return lambda said: digest in said


def _commit_of_a_claim() -> Heard:
    """Knows the first COMMIT after a claim was entered into the ledger: nearly always that claim's."""
    entered = False

    def heard(said: bytes) -> bool:
        nonlocal entered
        entered = entered or b"INSERT INTO load_batches " in said
        return entered and said.startswith(b"Q") and b"COMMIT" in said

    return heard


_VERBS: dict[str, Callable[[], Heard]] = {
    "claim": lambda: _script("claim"),
    "ack": lambda: _script("ack"),
    "commit": _commit_of_a_claim,
}


def _target(fault: Fault) -> str:
    return fault.target
