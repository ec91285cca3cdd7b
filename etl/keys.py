"""How the keys that the program keeps beside each list in Redis are named, and which lists would clash by that.
`etl.inbox` reads and writes them."""

from collections import Counter
from collections.abc import Iterator, Sequence

SPOOL = "etl:events"  # the list on which the listener puts what it hears

# The part of our keys that follows a list's prefix, up to the next colon.
_OURS = ("claims", "claim", "last", "kept", "acked", "listener")
_OF_OUR_OWN = "which is a key of the program's own, beside"


def prefix_of(key: str) -> str:
    """The prefix of all our keys of a source; it puts them into the source's slot of a cluster."""
    return key if _hash_tag(key) else f"{{{key}}}"


def clashes(sources: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    """What is wrong with these pairs (list, forwarded to), each as a sentence without a subject."""
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
    """The list that keeps its claims or its lock under this key, if any."""
    for each in loaded:
        prefix = f"{prefix_of(each)}:"
        if key.startswith(prefix) and key.removeprefix(prefix).split(":")[0] in _OURS:
            return each
    return None


def _named(key: str) -> str:
    return f"{key!r}, the listener's spool" if key == SPOOL else repr(key)


def _hash_tag(key: str) -> str:
    """What a cluster hashes instead of the whole key: the text in the first pair of braces; "" if there is none."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed else ""
