"""A dialler: what an Enigma dialler and its Click2Dial sibling write, out of a seed, with the truth about each message.

Here are the two CDR dialects of PROTOCOL.md, the mishaps of a real stream (resent and broken messages, a status among
the CDRs), the envelope of what is published, and the pace; the calls come from call_centre, their agents and the
notices from floor. Redis isn't here: messages reach it through the callables given to `play`. One profile yields the
same bytes at any time, on any machine.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from heapq import heappop, heappush
from itertools import islice
from random import Random
from typing import Any, Literal, NamedTuple

from msgspec.json import encode

from etl.devtools.call_centre import CAMPAIGNS, DAY, HOUR, Call, calls, day_of
from etl.devtools.floor import Notice, at_work

Kind = Literal["campaigns", "cdrs", "cdr", "pubsub"]
JsonObject = dict[str, Any]

GROUP = 500  # messages in a push: large enough that the round trip doesn't show, small enough for a smooth progress bar
BEAT = 0.05  # seconds between two pushes at a given rate: under what an eye or a latency test would notice
DIALECT_LAG = 40  # calls by which a call's second dialect may trail its first
RESEND_LAG = 400  # calls by which a resent message may trail its original: across batches, not only within one
BASE = "enigma:notifications"  # of every channel's name
_MINUTES = tuple(f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(24 * 60))
_RAW_DISPOSITIONS = {"busy": "BUSY", "reject": "DONTCALL", "timeout": "NOANSWER", "error": "CONGESTION"}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What to simulate: `cdrs` distinct calls in the `days` days before `until`.

    Shares lie between 0 and 1. `late` and `click2dial` are shares of the calls; a late call was dialled one to three
    days before its place in the stream, so possibly before the period. `duplicates`, `broken` and `events` are shares
    of the CDR messages: resent verbatim a little later, followed by a broken message, followed by a message on the
    list that is no CDR. With `pubsub`, what the dialler publishes while the agents work is in the stream, too. None of
    these four nor `dialect` changes the calls themselves; any other field yields other
    calls with other call_refs, so that two profiles can be loaded into one database.
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

    def __post_init__(self) -> None:
        if self.until.tzinfo is None:
            raise ValueError("until needs a time zone: without one, the bytes would depend on the machine's")
        if self.cdrs < 0 or self.days < 1:
            raise ValueError("cdrs must be 0 or more, days 1 or more")
        for name in ("duplicates", "broken", "events", "late", "click2dial"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share, between 0 and 1")


class Message(NamedTuple):
    # The type in the list's key: campaigns = the dialler's dialect A, cdrs = its dialect B, cdr = Click2Dial's. What is
    # published is on no list: pubsub.
    kind: Kind
    body: bytes
    # cdr, duplicate, event, broken:<the dead letter's reason> or, of what is published, kind/sub_type. Each dialect's
    # first copy is a cdr.
    truth: str
    identity: tuple[str, str]  # source, call_ref; an event's call_ref is "", a broken message's belongs to no call
    dialed_on: date | None  # UTC day of the call; None for events and broken messages
    channel: str = ""  # of what is published


@dataclass
class Tally:
    """The simulator's own books, to hold against the database's."""

    messages: int = 0  # on lists
    calls: int = 0  # distinct
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
    publish: Callable[[list[tuple[str, bytes]]], None] | None = None,
) -> Tally:
    """Gives every message to `push(kind, bodies)`, in order within a kind, at `rate` (above 0) messages a second.

    Without a rate, as fast as it can. What a slow push held up is caught up on. What is published goes to
    `publish([(channel, body), …])`, in order and before the CDRs of the same moment; it counts for the rate, too.
    `progress` hears the number of messages pushed so far.
    """
    tally, started, sent = Tally(), clock(), 0
    size = GROUP if rate is None else max(1, min(GROUP, int(rate * BEAT)))
    stream = messages(profile)
    while group := list(islice(stream, size)):
        if rate is not None:
            sleep(max(0.0, started + sent / rate - clock()))
        for message in group:
            # In both dialects a call has two first copies: the one in dialect A stands for it.
            tally.add(message, opens_call=message.kind != "cdrs" or profile.dialect == "b")
        _hand_over(group, push, publish)
        sent += len(group)
        if progress is not None:
            progress(tally.messages)
    return tally


def _hand_over(
    group: list[Message],
    push: Callable[[str, list[bytes]], None],
    publish: Callable[[list[tuple[str, bytes]]], None] | None,
) -> None:
    published = [(message.channel, message.body) for message in group if message.kind == "pubsub"]
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
    """What happens in the call centre, which the messages tell of: every call with its agent, and every notice."""
    until = int(profile.until.timestamp())
    centre = calls(profile.cdrs, until, profile.days, profile.seed, profile.late, profile.click2dial)
    return at_work(centre, f"{profile.seed}", profile.pubsub)


def _schedule(profile: Profile) -> Iterator[tuple[int, int, Message]]:
    """Every message with the present and the moment it is due, both counted in calls."""
    draw = Random(f"stream {profile.seed}").random  # not the calls' dice: mishaps leave the calls as they were
    now = broken = events = 0
    for call in truth(profile):
        if isinstance(call, Notice):
            yield now, now, _published(call)
            continue
        now += 1
        due = now
        for kind, envelope in _renderings(call, profile.dialect, draw() < 0.5):
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


# -- what is said about a call


def _renderings(call: Call, dialect: str, b_first: bool) -> list[tuple[Kind, JsonObject]]:
    if call.source == "click2dial":
        return [("cdr", _dialect_a(call))]
    if dialect == "b":
        return [("cdrs", _dialect_b(call))]
    both: list[tuple[Kind, JsonObject]] = [("campaigns", _dialect_a(call))]
    if dialect == "both":
        both.insert(0 if b_first else 1, ("cdrs", _dialect_b(call)))
    return both


def _dialect_a(call: Call) -> JsonObject:
    payload: JsonObject = {
        "extension": call.extension,
        "number": call.number,
        "dial_number": call.campaign.dial_number,
        "recording_url": call.recording_url,
        "call_ref": call.call_ref,
        "contact_ref": call.contact_ref,
        "dialed_at": call.dialed_at,
        "call_time": call.call_time,
        "hold_time": call.hold_time,
        "end_reason": call.outcome.end_reason,
        "end_code": call.outcome.end_code,
        "call_dir": call.campaign.call_dir,
        "ref": call.campaign.ref,
    }
    if call.oddity < 0.01 and call.source == "click2dial":
        _age(payload)
    elif call.oddity < 0.02:
        _renew(payload, call)
    elif call.oddity < 0.04:
        payload |= {"sentiment": {"score": 0.25, "tags": ["é", "x"]}, "retries": call.uuid % 4}
    return {"type": "cdr", "payload": payload}


def _age(payload: JsonObject) -> None:
    """As Click2Dial wrote it before 3.0: raw disposition, the client's number for a reference."""
    payload["disposition"] = _RAW_DISPOSITIONS.get(payload.pop("end_reason"), "ANSWER")
    payload["ref"] = payload.pop("number")
    del payload["hold_time"]


def _renew(payload: JsonObject, call: Call) -> None:
    """As newer systems write it. Only Click2Dial gets a leg: the dialler's dialect B has none to agree with."""
    payload["clid"] = payload.pop("dial_number")
    payload["isdn_code"] = payload.pop("end_code")
    payload["hold_time_number"] = payload.pop("hold_time")
    payload |= {"ring_time_number": call.ring_time, "call_type": "transfer", "call_trail_ref": f"T-{call.call_ref}"}
    if call.source == "click2dial":
        payload["call_trail_number"] = 1 + call.uuid % 3


def _dialect_b(call: Call) -> JsonObject:
    answered_at = call.dialed_at + call.ring_time
    connected_at = answered_at + call.hold_time
    ended_at = connected_at + call.call_time
    uuid, zone, outcome, milliseconds = f"{call.uuid:032x}", call.campaign.zone, call.outcome, call.uuid % 1000
    payload = {
        "call_ref": call.call_ref,
        "uuid": f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}",
        "agent": call.extension,
        "recording_location": call.recording_url,
        # To the whole second, as in dialect A: a fraction would contradict it.
        "dialed_at": _print_time(call.dialed_at, zone, 0),
        "callee_answered_at": _print_time(answered_at, zone, milliseconds) if outcome.answered else None,
        "agent_answered_at": _print_time(connected_at, zone, milliseconds) if outcome.connected else None,
        "ended_at": _print_time(ended_at, zone, milliseconds) if outcome.end_reason != "failed" else None,
        "end_reason": outcome.end_reason,
        "call_dir": call.campaign.call_dir,
        "ref": call.campaign.ref,
    }
    return {"type": "call_update", "payload": payload}


def _print_time(seconds: int, zone: str, milliseconds: int) -> str:
    local = seconds + HOUR * int(zone[:3])
    day, time_of_day = day_of(local).isoformat(), f"{_MINUTES[local % DAY // 60]}:{local % 60:02d}"
    return f"{day}T{time_of_day}.{milliseconds:03d}{zone}" if ":" in zone else f"{day} {time_of_day} {zone}"


# -- what is not about a call


def _published(notice: Notice) -> Message:
    body = encode({"type": notice.sub_type, "payload": notice.payload | {"ref": notice.ref}})
    identity = ("dialler", str(notice.payload.get("call_ref", "")))
    truth = f"{notice.kind}/{notice.sub_type}"
    return Message("pubsub", body, truth, identity, None, f"{BASE}:{notice.kind}:{notice.ref}")


def _event(serial: int) -> Message:
    ref = CAMPAIGNS[serial % len(CAMPAIGNS)].ref
    if serial % 3 == 2:
        event = {"type": "queue_calls", "payload": {"rate": 1 + serial % 10, "ref": ref}}
    else:
        status = ("started", "stopping", "stopped", "completed")[serial % 4]
        event = {"type": "status", "payload": {"status": status, "ref": ref}}
    return Message("campaigns", encode(event), "event", ("dialler", ""), None)


def _broken(kind: Kind, envelope: JsonObject, source: str, serial: int) -> Message:
    """What a CDR became on a bad day, under a call_ref of its own: loaded by mistake, it would be a row too many."""
    call_ref = f"broken-{serial}"
    cdr = envelope | {"payload": envelope["payload"] | {"call_ref": call_ref}}
    reason, breakage = _BREAKAGES[serial % len(_BREAKAGES)]
    return Message(kind, breakage(cdr), f"broken:{reason}", (source, call_ref), None)


def _with(name: str, value: object) -> Callable[[JsonObject], bytes]:
    return lambda cdr: encode(cdr | {"payload": cdr["payload"] | {name: value}})


def _dialed(seconds: int) -> Callable[[JsonObject], bytes]:
    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    return lambda cdr: _with("dialed_at", seconds if cdr["type"] == "cdr" else text)(cdr)


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
