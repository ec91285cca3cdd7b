"""A dialler: what an Enigma dialler and its Click2Dial sibling write, from a seed, with the truth about each message.

It writes as the published program does, which was run for it (tests/fixtures/dialler.jsonl), not as the documents or
the decoder have it: nothing here comes from etl.wire.

Here are the mishaps of a real stream (resent and broken messages, a status among the CDRs), the envelope of what is
published, and the pace; the calls come from call_centre, their agents and the notices from agents, the CDRs from
dialects. Messages reach Redis through the callables given to `play`. One profile yields the same bytes at any time, on
any machine.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from heapq import heappop, heappush
from itertools import islice
from random import Random
from typing import Literal, NamedTuple

from msgspec.json import encode

from etl.lab.agents import Notice, at_work
from etl.lab.call_centre import CAMPAIGNS, Call, calls, day_of
from etl.lab.dialects import JsonObject, MessageKind, Style, renderings

PUSH_MESSAGES = 500  # enough that the round trip doesn't show, few enough for a smooth progress bar
BEAT = 0.05  # seconds between two pushes at a given rate: under what an eye or a latency test would notice
DIALECT_LAG = 40  # calls by which a call's second dialect may trail its first
RESEND_LAG = 400  # calls by which a resent message may trail its original: across batches, not only within one
BASE = "enigma:notifications"  # of every channel's name


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What to simulate: `cdrs` distinct calls in the `days` days before `until`.

    Shares lie between 0 and 1. `late` and `click2dial` are shares of the calls; a late call was dialled one to three
    days before its place in the stream, so possibly before the period. `duplicates`, `broken` and `events` are shares
    of the CDR messages: resent verbatim a little later, followed by a broken message, followed by a message on the
    list that is no CDR. With `pubsub`, what the dialler publishes while the agents work is in the stream, too. With
    `legs`, the dialler's dialect A has call_trail_number, and some calls are transferred: each further leg is a CDR
    of its own, beyond `cdrs`. With `pbx`, the internal list gets dialect A, too. With `as_documented`, the dialler
    writes as the documents print it: integers, ISO 8601, fields of other versions. None of these nor `dialect` changes
    the calls themselves; any other field yields other calls with other call_refs, so that two profiles can be loaded
    into one database.
    """

    cdrs: int
    until: datetime
    seed: int = 1
    days: int = 1
    dialect: Literal["a", "b", "both"] = "a"
    duplicates: float = 0.0
    broken: float = 0.0
    events: float = 0.0
    late: float = 0.0
    click2dial: float = 0.1
    pubsub: bool = False
    legs: bool = False
    pbx: bool = False
    as_documented: bool = False

    def __post_init__(self) -> None:
        if self.until.tzinfo is None:
            raise ValueError("until needs a time zone: without one, the bytes would depend on the machine's")
        if self.cdrs < 0 or self.days < 1:
            raise ValueError("cdrs must be 0 or more, days 1 or more")
        for name in ("duplicates", "broken", "events", "late", "click2dial"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share, between 0 and 1")
        if self.dialect == "b" and (self.legs or self.pbx):
            raise ValueError("legs and pbx need dialect a: the other one has neither")

    @property
    def style(self) -> Style:
        return Style(self.dialect, self.legs, self.pbx, self.as_documented)


class Message(NamedTuple):
    # The list it's for: campaigns = the dialler's dialect A, cdrs = its dialect B, pbx = its internal one (dialect A),
    # statuses = what is no CDR, cdr = Click2Dial's. What is published is on no list: pubsub.
    kind: MessageKind
    body: bytes
    # cdr, duplicate, event, broken:<the dead letter's reason> or, of what is published, kind/sub_type. Each dialect's
    # first copy is a cdr.
    truth: str
    identity: tuple[str, str]  # source, call_ref; an event's call_ref is "", a broken message's belongs to no call
    dialed_on: date | None  # UTC day of the call; None for events and broken messages
    channel: str = ""  # of what is published
    at: int = 0  # when that is, Unix time


@dataclass
class SimulatorTally:
    """The simulator's own books, to compare the database's with."""

    messages: int = 0  # on lists
    calls: int = 0  # distinct; a further leg counts as one
    duplicates: int = 0  # copies beyond the first
    events: int = 0
    broken: Counter[str] = field(default_factory=Counter)  # messages by reason
    days: Counter[tuple[str, date]] = field(default_factory=Counter)  # distinct calls by source and UTC day
    published: Counter[str] = field(default_factory=Counter)  # by kind/sub_type

    def add(self, message: Message, opens_call: bool) -> None:
        if message.kind == "pubsub":
            self.published[message.truth] += 1
            return
        self.messages += 1
        if message.truth == "duplicate":
            self.duplicates += 1
        elif message.truth == "event":
            self.events += 1
        elif message.truth.startswith("broken:"):
            self.broken[message.truth.removeprefix("broken:")] += 1
        elif opens_call and message.dialed_on is not None:
            self.calls += 1
            self.days[message.identity[0], message.dialed_on] += 1


def play(
    profile: Profile,
    push: Callable[[str, list[bytes]], None],
    rate: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], None] | None = None,
    publish: Callable[[list[Message]], None] | None = None,
) -> SimulatorTally:
    """Gives every message to `push(kind, bodies)`, in order within a kind, at `rate` (above 0) messages a second.

    Without a rate, as fast as it can. What a slow push held up is caught up on. What is published goes to `publish`,
    in order and before the CDRs of the same moment; it counts for the rate, too. `progress` gets the number of messages
    pushed so far.
    """
    tally, started, sent = SimulatorTally(), clock(), 0
    size = PUSH_MESSAGES if rate is None else max(1, min(PUSH_MESSAGES, int(rate * BEAT)))
    stream = messages(profile)
    # Of the first copies of a call one stands for it: that in dialect A, if there is one.
    opening = {"cdr", "cdrs" if profile.dialect == "b" else "campaigns"}
    while group := list(islice(stream, size)):
        if rate is not None:
            sleep(max(0.0, started + sent / rate - clock()))
        for message in group:
            tally.add(message, opens_call=message.kind in opening)
        _hand_over(group, push, publish)
        sent += len(group)
        if progress is not None:
            progress(tally.messages)
    return tally


def _hand_over(
    group: list[Message],
    push: Callable[[str, list[bytes]], None],
    publish: Callable[[list[Message]], None] | None,
) -> None:
    published = [message for message in group if message.kind == "pubsub"]
    if published and publish is not None:
        publish(published)
    bodies: dict[str, list[bytes]] = {}
    for message in group:
        if message.kind != "pubsub":
            bodies.setdefault(message.kind, []).append(message.body)
    for kind, lot in bodies.items():
        push(kind, lot)


def messages(profile: Profile) -> Iterator[Message]:
    """The stream, in the order of its pushes; memory doesn't grow with its length."""
    waiting: list[tuple[int, int, Message]] = []
    for serial, (now, due, message) in enumerate(_schedule(profile)):
        heappush(waiting, (due, serial, message))
        while waiting and waiting[0][0] <= now:
            yield heappop(waiting)[2]
    while waiting:
        yield heappop(waiting)[2]


def truth(profile: Profile) -> Iterator[Call | Notice]:
    """What happens in the call centre and is written as messages: every call with its agent, and every notice."""
    until = int(profile.until.timestamp())
    centre = calls(profile.cdrs, until, profile.days, profile.seed, profile.late, profile.click2dial)
    return at_work(centre, f"{profile.seed}", profile.pubsub, profile.legs)


def _schedule(profile: Profile) -> Iterator[tuple[int, int, Message]]:
    """Every message with the present and the moment it is due, both counted in calls."""
    draw = Random(f"stream {profile.seed}").random  # not the calls' own: mishaps don't change the calls
    now = broken = events = 0
    style = profile.style
    for call in truth(profile):
        if isinstance(call, Notice):
            yield now, now, _published(call)
            continue
        now += 1
        due = now
        for kind, envelope in renderings(call, style, b_first=draw() < 0.5):
            identity = (call.source, str(call.call_ref))
            message = Message(kind, encode(envelope), "cdr", identity, day_of(call.dialed_at))
            yield now, due, message
            if draw() < profile.duplicates:
                again = message._replace(truth="duplicate")
                yield now, due + 1 + int(RESEND_LAG * draw()), again
                if draw() < 0.25:
                    yield now, due + 1 + int(RESEND_LAG * draw()), again
            if draw() < profile.broken:
                yield now, now, _broken(kind, envelope, call.source, broken)
                broken += 1
            if draw() < profile.events:
                yield now, now, _event(events)
                events += 1
            due = now + int(DIALECT_LAG * draw())


# -- messages that are no CDRs


def _published(notice: Notice) -> Message:
    has_ref = notice.ref is not None
    body = encode({"type": notice.sub_type, "payload": notice.payload | ({"ref": notice.ref} if has_ref else {})})
    identity = ("dialler", str(notice.payload.get("call_ref", "")))
    truth = f"{notice.kind}/{notice.sub_type}"
    channel = f"{BASE}:{notice.kind}{f':{notice.ref}' if has_ref else ''}"
    return Message("pubsub", body, truth, identity, None, channel, notice.at)


def _event(serial: int) -> Message:
    ref = CAMPAIGNS[serial % len(CAMPAIGNS)].ref
    if serial % 3 == 2:
        event = {"type": "queue_calls", "payload": {"rate": 1 + serial % 10, "ref": ref}}
    else:
        status = ("started", "stopping", "stopped", "completed")[serial % 4]
        event = {"type": "status", "payload": {"status": status, "ref": ref}}
    return Message("statuses", encode(event), "event", ("dialler", ""), None)


def _broken(kind: MessageKind, envelope: JsonObject, source: str, serial: int) -> Message:
    """A damaged CDR, under a call_ref of its own: loaded by mistake, it would be a row too many."""
    call_ref = f"broken-{serial}"
    cdr = envelope | {"payload": envelope["payload"] | {"call_ref": call_ref}}
    reason, breakage = _BREAKAGES[serial % len(_BREAKAGES)]
    return Message(kind, breakage(cdr), f"broken:{reason}", (source, call_ref), None)


def _with(name: str, value: object) -> Callable[[JsonObject], bytes]:
    return lambda cdr: encode(cdr | {"payload": cdr["payload"] | {name: value}})


def _dialed(seconds: int) -> Callable[[JsonObject], bytes]:
    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    return lambda cdr: _with("dialed_at", text if cdr["type"] == "call_update" else seconds)(cdr)


def _latin1(name: str, value: str) -> Callable[[JsonObject], bytes]:
    return lambda cdr: _with(name, value)(cdr).replace(value.encode(), value.encode("latin-1"))


def _nested(cdr: JsonObject) -> bytes:
    return _with("notes", "deep")(cdr).replace(b'"deep"', b"[" * 10_000 + b"]" * 10_000)


# The eight reasons in turn, then again in another guise; each breaks either dialect.
_BREAKAGES: tuple[tuple[str, Callable[[JsonObject], bytes]], ...] = (
    ("not_json", lambda cdr: encode(cdr)[:60]),
    ("not_utf8", _latin1("contact_ref", "Zoë")),
    ("not_an_envelope", lambda cdr: encode([cdr])),
    ("missing_field", _with("call_ref", None)),
    ("bad_type", _with("dialed_at", "yesterday")),
    ("out_of_range", _dialed(0)),
    ("nul_character", _with("contact_ref", "M\x0042")),
    ("too_deep", _nested),
    ("not_json", lambda cdr: b""),
    ("not_utf8", _latin1("notes", "für Zoë")),
    ("not_an_envelope", lambda cdr: encode(cdr | {"payload": encode(cdr["payload"]).decode()})),
    ("missing_field", _with("dialed_at", None)),
    ("bad_type", _with("end_reason", {"code": 16})),
    ("out_of_range", _dialed(8_600_000_000)),
    ("nul_character", _with("notes", [{"a\x00b": 1}])),
    ("too_deep", _nested),
)
