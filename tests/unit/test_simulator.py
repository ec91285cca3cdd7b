"""The simulated dialler: its bytes follow from the profile alone, its CDRs keep to docs/protocol.md, its tally is true.

What the loader makes of the messages is proved elsewhere, against real stores.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any, Literal

import pytest

from etl.lab.simulator import PUSH_MESSAGES, Message, Profile, messages, play

UNTIL = datetime(2024, 5, 17, 14, 30, tzinfo=UTC)  # a Friday
LIVELY = Profile(
    cdrs=4000, until=UNTIL, seed=7, days=3, dialect="both", duplicates=0.05, broken=0.02, events=0.03, late=0.04
)
DOCUMENTED = replace(LIVELY, as_documented=True)

DIALECT_A: dict[str, type | tuple[type, ...]] = {
    "call_ref": (int, str),
    "contact_ref": (int, str, type(None)),
    "extension": (str, type(None)),
    "number": str,
    "dial_number": str,
    "dialed_at": int,
    "call_time": int,
    "hold_time": int,
    "end_reason": str,
    "end_code": (int, str, type(None)),
    "call_dir": str,
    "recording_url": (str, type(None)),
    "ref": (int, str),
}
NEWER: dict[str, type | tuple[type, ...]] = {
    "clid": str,
    "isdn_code": (int, str, type(None)),
    "hold_time_number": int,
    "ring_time_number": int,
    "call_type": str,
    "call_trail_ref": str,
    "call_trail_number": int,
    "disposition": str,
}
UNDOCUMENTED = {"sentiment", "retries"}
DIALECT_B: dict[str, type | tuple[type, ...]] = {
    "call_ref": int,
    "uuid": str,
    "agent": (str, type(None)),
    "recording_location": (str, type(None)),
    "dialed_at": str,
    "callee_answered_at": (str, type(None)),
    "agent_answered_at": (str, type(None)),
    "ended_at": (str, type(None)),
    "end_reason": str,
    "call_dir": str,
    "ref": (int, str),
}


def payload(message: Message) -> dict[str, Any]:
    inner = json.loads(message.body)["payload"]
    assert isinstance(inner, dict)
    return inner


def cdrs(profile: Profile) -> list[Message]:
    return [message for message in messages(profile) if message.truth == "cdr"]


def moment(text: str) -> datetime:
    """A time as Ruby or ISO 8601 prints it; a format of neither raises."""
    form = "%Y-%m-%dT%H:%M:%S.%f%z" if "T" in text else "%Y-%m-%d %H:%M:%S %z"
    return datetime.strptime(text, form)


def assert_types(payload: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> None:
    for name, value in payload.items():
        assert isinstance(value, types[name]), (name, value)
        assert not isinstance(value, bool), (name, value)


# -- the same profile, the same bytes


def test_a_profile_yields_the_same_stream_in_another_process_and_zone() -> None:
    program = f"""if True:
        import datetime, hashlib
        from etl.lab.simulator import Profile, messages
        print(hashlib.sha256(repr(list(messages({LIVELY!r}))).encode()).hexdigest())
    """
    elsewhere = {**os.environ, "PYTHONHASHSEED": "4711", "TZ": "Asia/Tokyo", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=elsewhere, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == hashlib.sha256(repr(list(messages(LIVELY))).encode()).hexdigest()


def test_another_seed_or_period_yields_other_calls_under_other_references() -> None:
    first = {message.identity for message in messages(LIVELY)}
    for other in (replace(LIVELY, seed=8), replace(LIVELY, until=UNTIL + timedelta(seconds=1))):
        assert first.isdisjoint(message.identity for message in cdrs(other))


@pytest.mark.parametrize("kind", ["campaigns", "cdr"])
def test_mishaps_the_dialect_and_notices_leave_the_calls_as_they_were(kind: str) -> None:
    plain = replace(LIVELY, dialect="a", duplicates=0.0, broken=0.0, events=0.0)
    noisy = replace(LIVELY, pubsub=True)
    calm, lively = ({m.body for m in cdrs(profile) if m.kind == kind} for profile in (plain, noisy))
    assert len(calm) > 0
    assert calm == lively


def test_the_period_is_never_read_in_the_machines_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Profile(cdrs=1, until=datetime(2024, 5, 17))


# -- the shares


def test_there_are_exactly_as_many_distinct_calls_as_asked() -> None:
    for count in (0, 1, 999):
        for profile in (replace(LIVELY, cdrs=count, dialect="b"), replace(LIVELY, cdrs=count)):
            assert len({message.identity for message in cdrs(profile)}) == count


def test_mishaps_and_click2dial_take_the_shares_asked_for() -> None:
    stream = list(messages(LIVELY))
    said = Counter(message.truth.partition(":")[0] for message in stream)
    copies = Counter(message.body for message in stream if message.truth == "duplicate")
    assert len(copies) == pytest.approx(0.05 * said["cdr"], rel=0.2)
    assert said["broken"] == pytest.approx(0.02 * said["cdr"], rel=0.2)
    assert said["event"] == pytest.approx(0.03 * said["cdr"], rel=0.2)
    assert len([m for m in stream if m.truth == "cdr" and m.kind == "cdr"]) == pytest.approx(400, rel=0.2)
    assert {1, 2} == set(copies.values()), "mostly a second copy, sometimes a third"
    assert not [message for message in cdrs(replace(LIVELY, click2dial=0.0)) if message.kind == "cdr"]


def test_late_calls_lie_a_day_or_more_before_their_place_in_the_stream() -> None:
    def behind(profile: Profile) -> list[int]:
        """Seconds by which each call is older than the newest call before it."""
        dialed = [payload(message)["dialed_at"] for message in cdrs(profile)]
        return [newest - dialed_at for dialed_at, newest in zip(dialed, accumulate(dialed, max), strict=True)]

    lags = behind(replace(LIVELY, dialect="a"))
    late = [lag for lag in lags if lag > 82_800]
    assert len(late) == pytest.approx(0.04 * LIVELY.cdrs, rel=0.35)
    assert all(lag < 3_600 for lag in lags if lag not in late)
    assert max(behind(replace(LIVELY, dialect="a", late=0.0))) < 3_600


def test_without_late_calls_the_period_is_filled_mostly_in_office_hours() -> None:
    dialed = [
        datetime.fromtimestamp(payload(m)["dialed_at"], UTC) for m in cdrs(Profile(cdrs=5000, until=UNTIL, days=3))
    ]
    assert min(dialed) >= UNTIL - timedelta(days=3)
    assert max(dialed) < UNTIL
    assert {at.date() for at in dialed} == {date(2024, 5, day) for day in (14, 15, 16, 17)}
    assert sum(8 <= at.hour < 18 for at in dialed) > 0.8 * len(dialed)


def test_every_reason_of_breakage_gets_its_turn_and_truth_tells_it() -> None:
    broken = [message for message in messages(LIVELY) if message.truth.startswith("broken:")]
    reasons = Counter(message.truth.removeprefix("broken:") for message in broken)
    assert set(reasons) == {
        *("not_json", "not_utf8", "not_an_envelope", "missing_field"),
        *("bad_type", "out_of_range", "nul_character", "too_deep"),
    }
    assert max(reasons.values()) - min(reasons.values()) <= 1
    for message in broken:
        try:
            json.loads(message.body)
            fault = "json"
        except json.JSONDecodeError:
            fault = "not_json"
        except UnicodeDecodeError:
            fault = "not_utf8"
        except RecursionError:
            fault = "too_deep"
        # How deep is too deep depends on the Python: here, what is in the message counts.
        if message.truth == "broken:too_deep":
            assert b"[" * 10_000 + b"]" * 10_000 in message.body
        elif message.truth in ("broken:not_json", "broken:not_utf8"):
            assert message.truth == f"broken:{fault}"
        else:
            assert fault == "json"


# -- the protocol


def test_dialect_a_keeps_to_the_protocol() -> None:
    seen: set[str] = set()
    for message in cdrs(replace(DOCUMENTED, dialect="a", click2dial=0.3)):
        envelope = json.loads(message.body)
        assert envelope.keys() == {"type", "payload"}
        assert envelope["type"] == "cdr"
        cdr = {name: value for name, value in envelope["payload"].items() if name not in UNDOCUMENTED}
        seen |= envelope["payload"].keys()
        assert_types(cdr, DIALECT_A | NEWER)
        assert message.identity == ("click2dial" if message.kind == "cdr" else "dialler", str(cdr["call_ref"]))
        assert message.dialed_on == datetime.fromtimestamp(cdr["dialed_at"], UTC).date()
        assert isinstance(cdr["call_ref"], str if message.kind == "cdr" else int)
        assert (cdr["call_time"] > 0) == (cdr["recording_url"] not in (None, ".WAV"))
        if message.kind == "campaigns":
            assert (cdr["extension"] is None) == (cdr["call_time"] == 0)
        else:
            assert ("number" in cdr) == (cdr["ref"] == "click-dial"), "before 3.0 ref was the number"
    assert seen == DIALECT_A.keys() | NEWER.keys() | UNDOCUMENTED


def test_the_ordinary_message_has_13_fields_in_about_330_bytes() -> None:
    bodies = [message.body for message in cdrs(replace(DOCUMENTED, dialect="a", click2dial=0.0))]
    ordinary = [body for body in bodies if json.loads(body)["payload"].keys() == DIALECT_A.keys()]
    assert len(ordinary) > 0.9 * len(bodies)
    assert 300 < sum(map(len, bodies)) / len(bodies) < 350


def test_dialect_b_keeps_to_the_protocol_in_both_notations_of_time() -> None:
    notations: Counter[bool] = Counter()
    for message in cdrs(replace(DOCUMENTED, dialect="b", click2dial=0.0)):
        envelope = json.loads(message.body)
        assert message.kind == "cdrs"
        assert envelope["type"] == "call_update"
        cdr = envelope["payload"]
        assert cdr.keys() == DIALECT_B.keys()
        assert_types(cdr, DIALECT_B)
        steps = ("dialed_at", "callee_answered_at", "agent_answered_at", "ended_at")
        times = [moment(cdr[name]) for name in steps if cdr[name] is not None]
        assert times == sorted(times)
        assert message.dialed_on == times[0].astimezone(UTC).date()
        assert (cdr["agent"] is None) == (cdr["agent_answered_at"] is None)
        notations["T" in cdr["dialed_at"]] += 1
    assert min(notations[True], notations[False]) > 100


def test_some_hang_up_in_the_queue_and_some_withhold_their_number() -> None:
    calls = [payload(message) for message in cdrs(replace(DOCUMENTED, dialect="a", click2dial=0.0))]
    assert [c for c in calls if c["extension"] is None and c["end_reason"] == "callee_hungup"]
    assert {c["call_dir"] for c in calls if c["number"] == ""} == {"inbound"}
    assert {type(c["contact_ref"]) for c in calls} == {str, int, type(None)}
    assert {type(c["ref"]) for c in calls} == {str, int}
    assert {"hungup", "callee_hungup", "agent_hungup", "voicemail", "busy", "reject", "timeout", "error", "failed"} < {
        c["end_reason"] for c in calls
    }


@pytest.mark.parametrize("profile", [LIVELY, DOCUMENTED], ids=["as the program", "as documented"])
def test_both_dialects_of_a_call_agree_and_either_comes_first(profile: Profile) -> None:
    pairs: dict[tuple[str, str], list[Message]] = defaultdict(list)
    for message in cdrs(profile):
        if message.kind != "cdr":
            pairs[message.identity].append(message)
    assert Counter(len(pair) for pair in pairs.values()).keys() == {2}
    first = Counter(pair[0].kind for pair in pairs.values())
    assert min(first["campaigns"], first["cdrs"]) > 0.4 * len(pairs)
    for pair in pairs.values():
        a, b = (payload(message) for message in sorted(pair))
        assert pair[0].dialed_on == pair[1].dialed_on
        assert a["dialed_at"] == moment(b["dialed_at"]).timestamp()
        assert [a[name] for name in ("call_ref", "extension", "recording_url", "end_reason", "call_dir")] == [
            b[name] for name in ("call_ref", "agent", "recording_location", "end_reason", "call_dir")
        ]
        assert b.get("ref", a["ref"]) == a["ref"]
        if b["agent_answered_at"] is not None:
            answered, connected, ended = (
                moment(b[name]) for name in ("callee_answered_at", "agent_answered_at", "ended_at")
            )
            if profile.as_documented:
                assert (connected - answered).total_seconds() == a.get("hold_time", a.get("hold_time_number"))
            assert (ended - connected).total_seconds() == a["call_time"]


def test_events_are_the_lists_other_messages() -> None:
    events = [message for message in messages(LIVELY) if message.truth == "event"]
    assert {json.loads(message.body)["type"] for message in events} == {"status", "queue_calls"}
    assert {message.kind for message in events} == {"statuses"}


def test_duplicates_are_verbatim_and_follow_their_original() -> None:
    seen: set[tuple[str, bytes]] = set()
    for message in messages(LIVELY):
        if message.truth == "duplicate":
            assert (message.kind, message.body) in seen
        elif message.truth == "cdr":
            assert (message.kind, message.body) not in seen
            seen.add((message.kind, message.body))


# -- legs, and the internal list


@pytest.mark.parametrize("legs", [False, True])
def test_the_internal_list_has_each_cdr_of_dialect_a_without_a_type(legs: bool) -> None:
    client, internal = Counter[bytes](), Counter[bytes]()
    for message in cdrs(replace(LIVELY, pbx=True, legs=legs)):
        if message.kind in ("campaigns", "pbx"):
            inner = json.loads(message.body)
            assert inner["type"] == ("cdr" if message.kind == "campaigns" else None)
            (client if message.kind == "campaigns" else internal)[json.dumps(inner["payload"]).encode()] += 1
    assert client == internal


def test_legs_number_a_transferred_calls_cdrs_each_after_the_one_before() -> None:
    legs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in cdrs(replace(LIVELY, dialect="a", click2dial=0.0, legs=True)):
        legs[message.identity[1]].append(payload(message))
    assert Counter(len(each) for each in legs.values()).keys() == {1, 2, 3}
    for of_call in legs.values():
        assert [leg["call_trail_number"] for leg in of_call] == [*range(1, len(of_call) + 1)]
        for before, leg in pairwise(of_call):
            assert leg["dialed_at"] >= before["dialed_at"] + before["call_time"]
            assert leg["extension"] != before["extension"]


def test_legs_leave_the_first_legs_as_they_were() -> None:
    def first_legs(profile: Profile) -> list[dict[str, Any]]:
        payloads = [payload(message) for message in cdrs(replace(profile, dialect="a", click2dial=0.0))]
        return [each for each in payloads if each.pop("call_trail_number", 1) == 1]

    assert first_legs(LIVELY) == first_legs(replace(LIVELY, legs=True))


@pytest.mark.parametrize(("legs", "pbx"), [(True, False), (False, True)])
def test_what_only_dialect_a_has_is_refused_without_it(legs: bool, pbx: bool) -> None:
    with pytest.raises(ValueError, match="dialect a"):
        replace(LIVELY, dialect="b", legs=legs, pbx=pbx)


# -- play


@pytest.mark.parametrize("legs", [False, True])
@pytest.mark.parametrize("dialect", ["a", "b", "both"])
def test_the_tally_equals_an_independent_count(dialect: Literal["a", "b", "both"], legs: bool) -> None:
    profile = replace(LIVELY, dialect=dialect, legs=legs and dialect != "b", pbx=legs and dialect != "b")
    stream = list(messages(profile))
    calls = {(*m.identity, m.dialed_on, payload(m).get("call_trail_number", 1)) for m in stream if m.truth == "cdr"}
    calls = {(*call[:3], 1 if call[0] == "click2dial" else call[3]) for call in calls}  # a leg alone is a call
    tally = play(profile, lambda kind, bodies: None)
    assert tally.messages == len(stream)
    assert tally.calls == len(calls)
    assert len(calls) > profile.cdrs if profile.legs else len(calls) == profile.cdrs
    assert tally.duplicates == sum(m.truth == "duplicate" for m in stream)
    assert tally.events == sum(m.truth == "event" for m in stream)
    assert tally.broken == Counter(m.truth.split(":")[1] for m in stream if m.truth.startswith("broken:"))
    assert tally.days == Counter((source, day) for source, _, day, _ in calls)


def test_play_pushes_all_in_order_within_their_kind_with_progress() -> None:
    pushed: dict[str, list[bytes]] = defaultdict(list)
    sizes: list[int] = []
    heard: list[int] = []

    def push(kind: str, bodies: list[bytes]) -> None:
        pushed[kind] += bodies
        sizes.append(len(bodies))

    tally = play(LIVELY, push, progress=heard.append)
    expected: dict[str, list[bytes]] = defaultdict(list)
    for message in messages(LIVELY):
        expected[message.kind].append(message.body)
    assert pushed == expected
    assert 0 < min(sizes) <= max(sizes) <= PUSH_MESSAGES
    assert heard == sorted(heard)
    assert heard[-1] == tally.messages


@pytest.mark.parametrize("rate", [3.0, 200.0, 1_000_000.0])
def test_at_a_rate_no_message_is_early_and_a_slow_push_is_caught_up_on(rate: float) -> None:
    now, pushed = 100.0, 0

    def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds >= 0
        now += seconds

    def push(kind: str, bodies: list[bytes]) -> None:
        nonlocal now, pushed
        assert len(bodies) <= max(1, rate * 0.05)
        assert pushed <= (now - 100.0) * rate + 1e-6
        if pushed == 0:
            now += 60 / rate  # as long as 60 messages take
        pushed += len(bodies)

    play(Profile(cdrs=1000, until=UNTIL, click2dial=0.0), push, rate, clock=lambda: now, sleep=sleep)
    assert pushed == 1000
    assert now - 100.0 <= 1000 / rate + 1e-6
