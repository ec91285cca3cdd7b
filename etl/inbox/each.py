"""One question to every server that takes writes: the only one, or each primary of a cluster."""

from typing import Any

import redis

from etl.inbox.connection import Client, translated


def of_each(client: Client, method: str, *arguments: Any) -> list[tuple[str, Any]]:
    """The server's name and answer; of a cluster, those of each primary."""
    connection: Any = client
    with translated():
        if not isinstance(client, redis.RedisCluster):
            return [("Redis", getattr(connection, method)(*arguments))]
        return [
            (node.name, getattr(connection, method)(*arguments, target_nodes=node))
            for node in connection.get_primaries()
        ]
