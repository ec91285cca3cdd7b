"""An archive on a Redis Cluster whose masters have no replicas, a dialler that pushes there without end, and the books
of both sides."""

import contextlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

import redis

from etl.lab.oracle import Effects, lacking
from etl.lab.servers.private import PrivatePostgres
from etl.settings import SourceSettings
from tests.faults.oracle import effects, judge
from tests.world import Archive, cdr, eventually

# One of each node at least, whichever has the spool.
LISTS = tuple(SourceSettings(key=f"calls-{number}", source=f"calls-{number}") for number in range(12))
GROUP = 10  # messages in a push
PAUSE_SECONDS = 0.02
PATIENT = 120.0  # seconds: a node that doesn't answer costs a timeout at every look


class ClusterTrial:
    """`server` holds the archive in its database `database`."""

    def __init__(self, archive: Archive, server: PrivatePostgres, database: str) -> None:
        self.archive = archive
        self._server = server
        self._database = database
        self._number = 0
        self._acknowledged: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._attempted: defaultdict[str, Counter[str]] = defaultdict(Counter)

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """Push onto all lists in turn, from a thread of its own; at the end everything is confirmed."""
        silence = threading.Event()

        def speak() -> None:
            while not silence.wait(PAUSE_SECONDS):
                self._say()

        speaker = threading.Thread(target=speak, name="dialler")
        speaker.start()
        try:
            yield
        finally:
            silence.set()
            speaker.join()

    def rows(self) -> int:
        return effects(self._server, self._database)["CDRs"].total()

    def wait_for_more(self, rows: int) -> None:
        """Until so many more CDRs are loaded."""
        until = self.rows() + rows
        eventually(lambda: self.rows() >= until, PATIENT, what="nothing more is loaded")

    def assert_nothing_is_lost_or_doubled(self) -> None:
        """Once all that was pushed is loaded."""
        eventually(lambda: not any(lacking(self._acknowledged, self._has()).values()), PATIENT, what="it isn't loaded")
        has = self._has()
        verdict = judge(self._attempted, self._acknowledged, has)
        # A push without an answer was pushed again, and may have arrived both times.
        replace(verdict, missing=lacking(self._acknowledged, has)).assert_nothing_is_lost_or_doubled()
        assert verdict.confirmed["CDRs"] > 100 < verdict.confirmed["list events"]
        self.archive.assert_books_balance()

    def _has(self) -> Effects:
        found = effects(self._server, self._database)
        return {kind: found[kind] for kind in ("CDRs", "list events", "dead letters")}

    def _say(self) -> None:
        """A group onto one list, until the cluster confirms it."""
        key = LISTS[self._number // GROUP % len(LISTS)].key
        group = [self._message(key) for _ in range(GROUP)]
        while True:
            for kind, name, _ in group:
                self._attempted[kind][name] += 1
            with contextlib.suppress(redis.RedisError):  # the slot moves, or its node is away
                self.archive.redis.lpush(key, *(raw for _, _, raw in group))
                break
        for kind, name, _ in group:
            self._acknowledged[kind][name] += 1

    def _message(self, key: str) -> tuple[str, str, bytes]:
        """What is to come of it, by what name, and how it looks."""
        self._number += 1
        number = str(self._number)
        if self._number % 4 == 1:
            return "list events", number, json.dumps({"type": "status", "payload": {"ref": number}}).encode()
        if self._number % 7 == 1:
            raw = f"broken {number}".encode()
            return "dead letters", raw.hex(), raw
        return "CDRs", f"{key} {number}", cdr(number)
