"""The dialler's side: pushing onto a source list, and publishing. Used by the spool and the simulator."""

from collections.abc import Sequence

import redis

from etl.inbox.claims import End
from etl.inbox.connection import Client, translated
from etl.inbox.wrong_type import naming_wrong_types


def push(client: Client, key: str, messages: Sequence[bytes], take_from: End = "right") -> None:
    """Append messages at the new end of a list whose old end is `take_from`. Raises `Outage`."""
    with naming_wrong_types(client, list=(key,)):
        if take_from == "right":
            client.lpush(key, *messages)
        else:
            client.rpush(key, *messages)


def publish(client: Client, notices: Sequence[tuple[str, bytes]]) -> None:
    """Publish messages, each on its channel, in order. Only current subscribers get them. Raises `Outage`."""
    with translated():
        if isinstance(client, redis.RedisCluster):  # its pipelines don't take PUBLISH
            for channel, message in notices:
                client.publish(channel, message)
            return
        with client.pipeline(transaction=False) as pipeline:
            for channel, message in notices:
                pipeline.publish(channel, message)
            pipeline.execute()
