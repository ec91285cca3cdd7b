"""When a few waiting messages are worth a claim. Each claim is an entry in the ledger for ever: a list that trickles is
claimed from as seldom as promised times allow. Computes only: whoever looks says when.
"""

# A list that was claimed from lately lingers so many times longer, from that claim on. With the 200 ms of the setting's
# default that is 450 ms, and leaves 50 of the half second from push to commit for the claim and the commit.
TRICKLE = 2.25


class Lingering:
    """Of one list. `seconds` is how long its first message waits for others. Moments are of any clock that only goes
    forward."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._empty_at = float("-inf")
        self._claimed_at = float("-inf")

    def saw_none(self, at: float) -> None:
        """At this moment no message waited."""
        self._empty_at = max(at, self._empty_at)

    def claimed(self, at: float) -> None:
        """At this moment, or later, a claim took all that waited."""
        self._empty_at = max(at, self._empty_at)
        self._claimed_at = at

    @property
    def due_at(self) -> float:
        """When what waits now is to be claimed: it came after the list was seen empty."""
        return max(self._empty_at + self._seconds, self._claimed_at + TRICKLE * self._seconds)
