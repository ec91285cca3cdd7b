"""A claim whose time may turn out to be wrong: who writes it has the last word on when it was taken."""

from collections.abc import Callable, Iterator

from etl.wire.decode import Decodable, Records, Summary


class Dated(Decodable):
    """Decoded as of one time until another is said."""

    def __init__(self, decode: Callable[[int], Decodable], claimed_at: int) -> None:
        """`decode` gets the time at which the claim counts as taken, as `claimed_at`, in microseconds since 2000."""
        self._decode = decode
        self._claimed_at = claimed_at
        self._records = decode(claimed_at)

    def as_of(self, claimed_at: int) -> None:
        """What was decoded as of another time is decoded again. Call it before `pieces`."""
        if claimed_at != self._claimed_at:
            self._claimed_at, self._records = claimed_at, self._decode(claimed_at)

    def pieces(self) -> Iterator[Records]:
        return self._records.pieces()

    def prepare(self) -> None:
        self._records.prepare()

    def summary(self) -> Summary:
        return self._records.summary()
