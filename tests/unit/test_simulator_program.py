"""The simulated dialler beside the published one: every message has the shape of one that the program really wrote
(tests/fixtures/dialler.jsonl), and the other way round. Neither the decoder nor its idea of a message is asked."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from etl.lab.simulator import Message, Profile, messages

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dialler.jsonl"
PROFILE = Profile(
    cdrs=3_000,
    until=datetime(2026, 11, 26, tzinfo=UTC),
    dialect="both",
    duplicates=0.02,
    events=0.02,
    late=0.05,
    click2dial=0.0,
    pubsub=True,
    pbx=True,
)
LISTS = {"campaigns": "campaigns", "cdrs": "cdrs", "pbx": "pbx", "statuses": "campaigns"}
UNSEEN = {"agents:stats", "campaigns:stats"}  # the published program was not run for as long


class Shape(NamedTuple):
    """A message's type with the words of its key, and of every field the name and what kind of value it has."""

    about: str
    fields: tuple[tuple[str, object], ...]


def shape(key: str, raw: bytes) -> Shape:
    envelope = json.loads(raw)
    assert list(envelope) == ["type", "payload"]
    word = key.removeprefix("enigma:").removeprefix("notifications:").split(":")[0]
    return Shape(f"{word}:{envelope['type']}", kinds(envelope["payload"]))


def kinds(fields: dict[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple((name, kind(value)) for name, value in fields.items())


def kind(value: object) -> object:
    if isinstance(value, list):
        return [kind(each) for each in value]
    if isinstance(value, dict):
        return kinds(value)
    return text_kind(value) if isinstance(value, str) else type(value).__name__


# Of texts, the notation counts: the rest of a text is its own business.
NOTATIONS = {
    "Ruby's time": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}",
    "recording": r"/recordings/\d{4}/\d\d/\d\d/dialer-\d*-\d+-\d{8}-[0-9a-f]{8}-\d{1,8}\.WAV",
    "recording without a name": r"\.WAV",
    "the dialler's id": r"[0-9a-f]{8}-\d{1,8}",
    "digits": r"\d+",
    "a contact": r"M\d+",
}


def text_kind(text: str) -> str:
    named = (name for name, notation in NOTATIONS.items() if re.fullmatch(notation, text))
    return next(named, "" if re.fullmatch("[a-z_]*", text) else "another text")


def of_the_program() -> Iterator[Shape]:
    for line in FIXTURE.read_text().splitlines():
        told = json.loads(line)
        yield shape(told.get("list") or told["channel"], told["raw"].encode())


def of_the_simulator(profile: Profile) -> Iterator[Shape]:
    for message in messages(profile):
        yield shape(key_of(message), message.body)


def key_of(message: Message) -> str:
    return message.channel or LISTS[message.kind]


def names(shapes: Iterable[Shape]) -> dict[str, set[tuple[str, ...]]]:
    found = defaultdict(set)
    for each in shapes:
        found[each.about].add(tuple(name for name, _ in each.fields))
    return found


def values(shapes: Iterable[Shape]) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    for each in shapes:
        for name, value in each.fields:
            found[each.about, name].add(str(value))
    return found


def test_every_message_has_the_fields_of_the_programs_in_their_order() -> None:
    program, simulated = names(of_the_program()), names(of_the_simulator(PROFILE))
    assert simulated.keys() - UNSEEN == program.keys()
    for about, orders in program.items():
        assert simulated[about] == orders, about


def test_every_field_has_the_kinds_of_value_that_the_programs_have() -> None:
    program, simulated = values(of_the_program()), values(of_the_simulator(PROFILE))
    of_integrators_and_callers = {"number", "contact_ref", "callees"}
    for about, seen in program.items():
        assert simulated[about] >= seen, about
        if about[1] not in of_integrators_and_callers:  # what integrators and callers put there is theirs
            assert simulated[about] == seen, about


def test_the_bytes_have_no_spaces_between_their_fields() -> None:
    for message in messages(replace(PROFILE, cdrs=300)):
        assert message.body == json.dumps(json.loads(message.body), separators=(",", ":"), ensure_ascii=False).encode()


def test_given_the_same_moments_the_channels_are_those_of_the_program() -> None:
    told = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
    channels = {re.sub(r"\d+", "9", each["channel"]) for each in told if "channel" in each}
    ours = {re.sub(r"\d+", "9", message.channel) for message in messages(PROFILE) if message.channel}
    assert ours == channels
