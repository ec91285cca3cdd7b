"""What is remembered of a channel's name is what would be worked out anew; and whoever publishes on any channel fills
no memory."""

from hypothesis import given
from hypothesis import strategies as st

from etl.wire import channels
from etl.wire.channels import LONGEST, once_a_channel
from etl.wire.envelope import kind_and_reference
from etl.wire.event import Place, heard_on

KINDS = st.sampled_from(["agent", "agents", "campaigns", "inbound", "dialers", "cdrs", "weather"])
LIKE_A_DIALLERS = st.tuples(st.sampled_from(["enigma:notifications", "pbx", ""]), KINDS, st.text(max_size=4)).map(
    ":".join
)


@given(st.lists(LIKE_A_DIALLERS | st.text(), max_size=5))
def test_given_any_channels_again_and_again_then_each_tells_the_same(names: list[str]) -> None:
    for name in [*names, *names]:
        assert heard_on(name) == Place("pubsub", name, *kind_and_reference(name))


def test_given_one_channel_again_then_it_is_worked_out_once() -> None:
    asked: list[bytes] = []
    remembered = once_a_channel(asked.append)
    for name in (b"a", b"b", b"a", b"x" * LONGEST, b"x" * LONGEST):
        remembered(name)
    assert asked == [b"a", b"b", b"x" * LONGEST]


def test_given_more_channels_than_remembered_then_the_first_is_forgotten() -> None:
    asked: list[str] = []
    remembered = once_a_channel(asked.append)
    for number in range(channels.REMEMBERED + 1):
        remembered(str(number))
    remembered("0")
    assert asked[-1] == "0"
    assert len(asked) == channels.REMEMBERED + 2


def test_given_a_long_name_then_it_is_not_remembered() -> None:
    asked: list[str] = []
    remembered = once_a_channel(asked.append)
    for _ in range(2):
        remembered("x" * (LONGEST + 1))
    assert len(asked) == 2
