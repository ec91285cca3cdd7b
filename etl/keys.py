"""Whose a Redis key is: the rule by which every list has keys of the program's own beside it, and which lists can't
stand beside each other for it. Who reads and writes those keys is `etl.inbox`."""

from collections import Counter
from collections.abc import Iterator, Sequence

SPOOL = "etl:events"  # the list on which the listener puts what it hears

# What stands behind a list's prefix in our keys, up to the next colon.
_OURS = ("claims", "claim", "last", "listener")
_OF_OUR_OWN = "which is a key of the program's own, beside"


def prefix_of(key: str) -> str:
    """What the keys of all claims of a source begin with, so that they lie in the source's slot of a cluster."""
    return key if _hash_tag(key) else f"{{{key}}}"


def clashes(sources: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    """What can't be, as sentences without a subject, of lists to load from and the list that each is passed on to."""
    keys = [key for key, _ in sources]
    for key, count in Counter(keys).items():
        if count > 1:
            yield f"lists the key {key!r} {count} times"
    loaded = list(dict.fromkeys([SPOOL, *keys]))  # the spool is loaded like any other
    yield from _between_lists(loaded, SPOOL in keys)
    for key, forward_to in sources:
        if forward_to == SPOOL:
            yield f"forwards {key!r} to {SPOOL!r}, which is the listener's spool"
        elif forward_to in keys:
            yield f"forwards {key!r} to {forward_to!r}, which is a source itself: a loop"
        elif forward_to is not None and (owner := _owner(forward_to, loaded)) is not None:
            yield f"forwards {key!r} to {forward_to!r}, {_OF_OUR_OWN} {_named(owner)}"


def _between_lists(loaded: Sequence[str], has_spool: bool) -> Iterator[str]:
    if has_spool:
        yield f"lists {SPOOL!r}, which is the listener's spool, and is loaded in any case"
    for place, key in enumerate(loaded):
        for other in loaded[:place]:
            if prefix_of(key) == prefix_of(other):
                registry = f"{prefix_of(key)}:claims"
                yield f"lists {key!r} beside {_named(other)}: both would keep their claims in {registry!r}"
    for key in loaded[1:]:
        if (owner := _owner(key, loaded)) is not None:
            yield f"lists {key!r}, {_OF_OUR_OWN} {_named(owner)}"


def _owner(key: str, loaded: Sequence[str]) -> str | None:
    """The list whose claims, or whose lock, are kept under this key."""
    for each in loaded:
        prefix = f"{prefix_of(each)}:"
        if key.startswith(prefix) and key.removeprefix(prefix).split(":")[0] in _OURS:
            return each
    return None


def _named(key: str) -> str:
    return f"{key!r}, the listener's spool" if key == SPOOL else repr(key)


def _hash_tag(key: str) -> str:
    """What a cluster hashes instead of the whole key: the text in the first pair of braces, if any stands there."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed else ""
