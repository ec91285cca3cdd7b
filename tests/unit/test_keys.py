"""Lists that can't stand beside each other: what settings refuse is what would meet in Redis, and both are named."""

import itertools
import json
from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import ConfigurationError
from etl.inbox import claims
from etl.inbox.connection import connect
from etl.settings import load

CLAIM = UUID("018d0000-0000-7000-8000-000000000000")
LOCK = "{etl:events}:listener"
BASES = ["a", "{a}", "b", "{a}b", "b{a}", "{}", "a}", "{a", "etl:events", "{etl:events}", "x:{etl:events}:y"]
BESIDE = ["claims", f"claim:{CLAIM}", "listener", "crm", "claimsx", "claim"]
KEYS = [*BASES, *(f"{prefix}:{name}" for prefix in ("{a}", "b{a}", "{etl:events}") for name in BESIDE)]
Lists = list[tuple[str, str | None]]


def refused(lists: Lists) -> list[str]:
    sources = [{"key": key} | ({"forward_to": forward_to} if forward_to else {}) for key, forward_to in lists]
    try:
        load(None, {"ETL_SOURCES": json.dumps(sources)})
    except ConfigurationError as error:
        return error.text.splitlines()
    return []


def keys_in_redis(key: str) -> Iterator[str]:
    """What the inbox really keeps for a list, by its own word."""
    source = claims.Source(connect("redis://127.0.0.1:1"), key, worker="w")
    yield source.registry
    yield source.last
    yield source.claim_list(CLAIM)
    yield source.kept_list(CLAIM)
    yield source.kept_registry
    yield source.acked


def meet(lists: Lists) -> bool:
    """Whether two things would be one key in Redis."""
    loaded = ["etl:events", *(key for key, _ in lists)]
    everything = [*loaded, LOCK, *itertools.chain.from_iterable(map(keys_in_redis, loaded))]
    forwards = {forward_to for _, forward_to in lists if forward_to}
    return len(everything) != len(set(everything)) or not forwards.isdisjoint(everything)


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.sampled_from(KEYS)), min_size=1, max_size=3))
def test_what_would_meet_in_redis_is_refused(lists: Lists) -> None:
    if meet(lists):
        assert refused(lists)


@pytest.mark.parametrize("one", KEYS)
def test_of_two_lists_only_those_are_refused_that_clash_by_their_names(one: str) -> None:
    for other in KEYS:
        pairs: list[Lists] = [[(one, None), (other, None)], [(one, other)], [(one, None), ("z", other)]]
        for lists in pairs:
            told = refused(lists)
            if meet(lists):
                assert told, lists
                assert any(repr(one) in line or repr(other) in line for line in told), lists
            else:  # but for names that are kept for the program's own, though nothing is there today
                assert all("a key of the program's own" in line for line in told), (lists, told)


def test_lists_that_share_a_registry_are_told_by_their_names() -> None:
    told = "ETL_SOURCES lists '{a}' beside 'a': both would keep their claims in '{a}:claims'"
    assert refused([("a", None), ("{a}", None)]) == [told]


def test_the_listeners_spool_is_neither_a_source_nor_a_forward() -> None:
    spool = "'etl:events'"
    assert refused([("etl:events", None)]) == [
        f"ETL_SOURCES lists {spool}, which is the listener's spool, and is loaded in any case"
    ]
    assert refused([("a", "etl:events")]) == [f"ETL_SOURCES forwards 'a' to {spool}, which is the listener's spool"]
    assert refused([("{etl:events}", None)]) == [
        f"ETL_SOURCES lists '{{etl:events}}' beside {spool}, the listener's spool:"
        " both would keep their claims in '{etl:events}:claims'"
    ]


@pytest.mark.parametrize("name", BESIDE[:3])
def test_a_claim_is_neither_a_source_nor_a_forward(name: str) -> None:
    ours = f"'{{a}}:{name}', which is a key of the program's own, beside 'a'"
    assert f"ETL_SOURCES lists {ours}" in refused([("a", None), (f"{{a}}:{name}", None)])
    assert refused([("a", f"{{a}}:{name}")]) == [f"ETL_SOURCES forwards 'a' to {ours}"]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_lists_forwarded_in_a_circle_are_refused_each_by_name(length: int) -> None:
    circle: Lists = [(f"list-{n}", f"list-{(n + 1) % length}") for n in range(length)]

    told = refused(circle)

    assert told == [f"ETL_SOURCES forwards {a!r} to {b!r}, which is a source itself: a loop" for a, b in circle]


def test_two_lists_may_be_passed_on_to_one() -> None:
    assert refused([("a", "crm"), ("b", "crm"), ("c", "{c}:crm")]) == []
