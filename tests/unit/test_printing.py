"""Numbers as people read them."""

import pytest

from etl.text import duration, size


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "under 1 s"),
        (0.99, "under 1 s"),
        (1.9, "1 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3_599, "59 min 59 s"),
        (7_500, "2 h 5 min"),
        (86_400, "1 d 0 h"),
        (4_296 * 86_400 + 17 * 3_600, "4,296 d 17 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_size_is_in_the_unit_that_is_not_too_small() -> None:
    assert (size(1_572_864), size(1024**3), size(2_560 * 1024**3)) == ("1.5 MiB", "1.0 GiB", "2,560.0 GiB")
