"""The dialler's side of a source list: pushing. For the simulator; the real dialler needs nobody to push."""

from collections.abc import Sequence

from etl.inbox.claims import End
from etl.inbox.connection import Client, translated


def push(client: Client, key: str, messages: Sequence[bytes], take_from: End = "right") -> None:
    """Append messages at the new end of a list whose old end is `take_from`. Raises `Outage`."""
    with translated():
        if take_from == "right":
            client.lpush(key, *messages)
        else:
            client.rpush(key, *messages)
