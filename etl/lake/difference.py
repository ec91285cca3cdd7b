"""What isn't as the books, or Postgres, say: one finding of `verify` and of `witness`."""

from datetime import date
from typing import NamedTuple

# A day that differs everywhere needn't be reported row by row.
MOST_DIFFERENCES = 20


class Difference(NamedTuple):
    """Something isn't as the books, or Postgres, say."""

    dataset: str
    day: date
    what: str
    expected: str
    found: str
