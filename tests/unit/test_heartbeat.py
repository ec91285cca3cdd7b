"""The heartbeat's other duty: errors in cycles keep the claims that they struck, and an outage would cost memory."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from etl.app.threads import heartbeat
from etl.settings import Settings
from tests.world import eventually


@pytest.fixture
def no_other_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class _Claim:
    pass


def _struck() -> "weakref.ref[_Claim]":
    """A claim that only an error's cycle still holds, as SQLAlchemy's do."""
    claim = _Claim()
    try:
        raise ValueError
    except ValueError as error:
        held = error  # the frame holds the error, its traceback the frame, and the frame the claim
    assert held
    return weakref.ref(claim)


def test_what_an_error_holds_is_freed_at_the_next_beat(no_other_collection: None) -> None:
    claim = _struck()
    assert claim() is not None
    with heartbeat(Settings(lease_seconds=10), []):
        eventually(lambda: claim() is None)
