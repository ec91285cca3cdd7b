"""References end in indexes, whose entries take less than a third of a page: a longer one would load, and stop the
rollup or the contact index of its day later on. So they are bounded here, and nowhere else: what was stored before is
read, merged into, exported and forgotten whatever its length.
"""

from collections.abc import Iterable

from etl.wire.faults import Reason, Undecodable

# In UTF-8: far more than any dialler makes, and far less than the 2,704 bytes that an entry may have.
MOST_BYTES = 512
# Characters that can't be more bytes than that.
_SURELY_FEW = MOST_BYTES // 4


def check(named: Iterable[tuple[str, str | None]]) -> None:
    """Raises `Undecodable` for the first that is too long, by its field's name."""
    for name, value in named:
        if value is not None and len(value) > _SURELY_FEW and (size := len(value.encode())) > MOST_BYTES:
            raise Undecodable(Reason.TOO_LARGE, f"{name}: {size:,} bytes of a reference, and the limit is {MOST_BYTES}")
