"""The producers: diallers that push until Redis has confirmed each message, and a switchboard that publishes; and
the truth, their record of what they sent.

A push that isn't confirmed may have arrived all the same. Such a message is pushed again, and may be there more
often than it was confirmed: the truth has both numbers, `acknowledged` and `attempted`.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from etl.errors import ConfigurationError, Outage
from etl.lab.selftest.calls import CAMPAIGNS, CHANNEL, CallMessage, KnownCall, event_message, serial_of, undecodable

DIALLERS = 3
CALLS_OF_A_DIALLER = 10_000_000  # numbers each dialler has for its own
CALLS_IN_A_PUSH = 16  # new calls in a push, at most
PAUSES = (0.0, 0.2)  # seconds between two groups: about 250 new calls a second in all
PUBLISH_EVERY = 0.02  # seconds
PUSH_RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 120.0  # no fault lasts as long

Push = Callable[[str, list[bytes]], None]
Publish = Callable[[str, bytes], None]


class Published(NamedTuple):
    """One PUBLISH: Redis executed it between `began` and `ended`; or never, perhaps, if it wasn't confirmed."""

    began: datetime
    ended: datetime
    confirmed: bool


@dataclass
class Truth:
    """What was sent. All messages of every call were when the diallers are done."""

    seed: int
    today: date
    calls: Counter[int] = field(default_factory=Counter)  # how many each dialler had
    acknowledged: Counter[str] = field(default_factory=Counter)  # messages by list
    attempted: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)  # how often each may be there, by serial; at least once
    undecodable: Counter[bytes] = field(default_factory=Counter)  # the same, by message
    reasons: dict[bytes, str] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)  # by serial
    lock: threading.Lock = field(default_factory=threading.Lock)

    def every_call(self) -> Iterator[KnownCall]:
        for dialler, number_of_calls in sorted(self.calls.items()):
            first = dialler * CALLS_OF_A_DIALLER
            yield from (KnownCall(number, self.seed, self.today) for number in range(first, first + number_of_calls))


class Dialler:
    """Pushes calls, events and undecodable messages; some of them twice."""

    def __init__(self, name: int, truth: Truth, push: Push) -> None:
        self._name = name
        self._truth = truth
        self._push = push
        self._random = Random(f"dialler {name} {truth.seed}")
        self._later: list[tuple[int, int, CallMessage]] = []
        self._serial = self._now = 0

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set and all messages of every call are sent."""
        while not stop.wait(self._random.uniform(*PAUSES)):
            self.send()
        self.finish()

    def send(self) -> None:
        """Push the first messages of the next calls, and what is due of former ones."""
        group = [message for _ in range(self._random.randint(1, CALLS_IN_A_PUSH)) for message in self._next_call()]
        self._push_all([*group, *self._due()])

    def finish(self) -> None:
        """Push whatever is left."""
        rest = [message for _, _, message in sorted(self._later)]
        self._later.clear()
        for start in range(0, len(rest), CALLS_IN_A_PUSH):
            self._push_all(rest[start : start + CALLS_IN_A_PUSH])

    def _next_call(self) -> Iterator[CallMessage]:
        number = self._name * CALLS_OF_A_DIALLER + self._now
        self._now += 1
        for message in KnownCall(number, self._truth.seed, self._truth.today).messages():
            yield from self._or_later(message)
            if self._random.random() < 0.05:  # sent again, as from the dialler's backup files
                yield from self._or_later(message._replace(after=message.after + self._random.randint(0, 1_000)))
        if self._random.random() < 0.02:
            yield CallMessage(CAMPAIGNS, event_message(self._new_serial()), 0)
        if self._random.random() < 0.01:
            reason, raw = undecodable(self._new_serial())
            self._truth.reasons[raw] = reason
            yield CallMessage(CAMPAIGNS, raw, 0)

    def _new_serial(self) -> str:
        self._serial += 1
        return f"{self._name}-{self._serial}"

    def _or_later(self, message: CallMessage) -> Iterator[CallMessage]:
        if message.after == 0:
            yield message
        else:
            self._serial += 1
            heappush(self._later, (self._now + message.after, self._serial, message))

    def _due(self) -> Iterator[CallMessage]:
        while self._later and self._later[0][0] <= self._now:
            yield heappop(self._later)[2]

    def _push_all(self, group: list[CallMessage]) -> None:
        lists: dict[str, list[bytes]] = {}
        for message in group:
            lists.setdefault(message.key, []).append(message.raw)
        for key, messages in lists.items():
            attempts = self._until_confirmed(key, messages)
            with self._truth.lock:
                self._truth.acknowledged[key] += len(messages)
                self._truth.attempted[key] += len(messages) * attempts
                for raw in messages:
                    if raw in self._truth.reasons:
                        self._truth.undecodable[raw] += attempts
                    elif serial := serial_of(raw):
                        self._truth.events[serial] += attempts
        self._truth.calls[self._name] = self._now

    def _until_confirmed(self, key: str, messages: list[bytes]) -> int:
        """How many attempts it took."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        attempts = 1
        while True:
            try:
                self._push(key, messages)
                return attempts
            except (Outage, ConfigurationError):  # the latter while the list is a hash
                if time.monotonic() > deadline:
                    raise
            attempts += 1
            time.sleep(PUSH_RETRY_SECONDS)


class Switchboard:
    """Publishes agents' events, each once: a listener can't distinguish a repetition from a second event."""

    def __init__(self, truth: Truth, publish: Publish) -> None:
        self._truth = truth
        self._publish = publish

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(PUBLISH_EVERY):
            self.send()

    def send(self) -> None:
        serial = f"p-{len(self._truth.published)}"
        began, confirmed = datetime.now(UTC), False
        with suppress(Outage):
            self._publish(CHANNEL, event_message(serial))
            confirmed = True
        self._truth.published[serial] = Published(began, datetime.now(UTC), confirmed)
