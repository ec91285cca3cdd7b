"""Whether Redis' replicas have a claim before it's loaded: what they don't have may come again after a fail-over.

WAIT waits for what was written over its own connection, and for nothing else. So it follows the script over the one
that made the claim, which nobody else uses until it's answered; meanwhile the claim is decoded.
"""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import AskError, RedisError

from etl.errors import ConfigurationError, EtlError
from etl.inbox.connection import Client, translated
from etl.inbox.scripts import of_node

# How often it's asked who follows, when claims are made; and how long nothing is asked where that is refused.
ASK_SECONDS = 10.0
REFUSED_SECONDS = 60.0
# For so long a claim waits. For a replica that was too slow, as one that is frozen or cut off, the next ones don't,
# until it's there again: loading goes on at nearly its own speed.
WAIT_MS = 1_000
WAIT_AGAIN_MS = 20
# For the server's answer, beyond that.
ANSWER_SECONDS = 1.0

_REPLICA = re.compile("slave[0-9]+")


class Confirmation:
    """Of one claim, by those that followed when it was made."""

    def __init__(self, replicas: "Replicas", over: Any = None, count: int = 0, confirmed: bool = True) -> None:
        """`over` is the client with the connection that the claim was made over, if so many follow."""
        self._replicas = replicas
        self._over = over
        self._wait_ms = replicas.wait_ms
        self._confirmed = confirmed
        self._count = count
        self._lock = threading.Lock()
        if over is not None:
            try:
                over.connection.send_command("WAIT", count, self._wait_ms)
            except (RedisError, OSError):
                self._end(False)

    def wait(self) -> bool:
        """Whether they all have it: known within little more than `WAIT_MS` after it was made. Raises nothing."""
        with self._lock:
            if self._over is not None:
                self._end(self._read())
            return self._confirmed

    def drop(self) -> None:
        """Nobody wants to know any more."""
        with self._lock:
            if self._over is not None:
                self._over.connection.disconnect()
                self._end(False)

    def _read(self) -> bool:
        connection = self._over.connection
        try:
            with translated():
                if connection.can_read(self._wait_ms / 1_000 + ANSWER_SECONDS):
                    confirmed = int(connection.read_response()) >= self._count
                    self._replicas.answered(confirmed)
                    return confirmed
        except ConfigurationError:
            self._replicas.refuse()
            return False
        except EtlError:  # it became a replica itself, or is gone
            pass
        connection.disconnect()
        self._replicas.answered(False)
        return False

    def _end(self, confirmed: bool) -> None:
        self._confirmed = confirmed
        with suppress(RedisError, OSError):
            self._over.close()  # gives the connection back
        self._over = None


class Replicas:
    """Of the server that has the list `key`. Safe to use from several threads."""

    def __init__(self, client: Client, key: str) -> None:
        self._client: Any = client
        self._key = key
        self._count = 0
        self._ask_at = self._refused_until = float("-inf")
        self.wait_ms = WAIT_MS
        self.is_refused = False  # this user may not ask who follows, or not wait

    def follow(self, write: Callable[[Any], Any]) -> tuple[Any, Confirmation]:
        """What `write` gives, and whether all that follow have it. It's called with the client to write over, None:
        any; its answer begins with 0, or is None, if it wrote nothing. Raises what redis-py raises."""
        if not (count := self._following()):
            return write(None), Confirmation(self)
        if time.monotonic() < self._refused_until:
            return write(None), Confirmation(self, confirmed=False)
        over = self._connection()
        try:
            answer = write(over)
        except AskError:  # the list is on another node of the cluster by now; the cluster's own client finds it
            over.close()
            return write(None), Confirmation(self, confirmed=False)
        except BaseException:
            over.close()
            raise
        if answer is None or not answer[0]:
            over.close()
            return answer, Confirmation(self)
        return answer, Confirmation(self, over, count)

    def answered(self, confirmed: bool) -> None:
        """WAIT is allowed."""
        self.is_refused = False
        self.wait_ms = WAIT_MS if confirmed else WAIT_AGAIN_MS
        if not confirmed:
            self._ask_at = float("-inf")  # somebody may have left

    def refuse(self) -> None:
        """This user may not wait."""
        self.is_refused, self._refused_until = True, time.monotonic() + REFUSED_SECONDS

    def _following(self) -> int:
        now = time.monotonic()
        if now >= self._ask_at:
            try:
                with translated():
                    about = self._client.info("replication", **of_node(self._client, self._key))
                self._count, self._ask_at = _online(about), now + ASK_SECONDS
                if not self._count:
                    self.is_refused = False
            except ConfigurationError:
                self._count, self.is_refused, self._ask_at = 0, True, now + REFUSED_SECONDS
        return self._count

    def _connection(self) -> Any:
        node = self._client
        if isinstance(node, redis.RedisCluster):
            where: Any = node.get_node_from_key(self._key)  # type: ignore[no-untyped-call]
            node = node.get_redis_connection(where)
        return redis.Redis(connection_pool=node.connection_pool, single_connection_client=True)


def _online(about: dict[str, Any]) -> int:
    """How many follow, by INFO; not those that are still being sent what was there before, which may take minutes."""
    told = [about[name] for name in about if _REPLICA.fullmatch(name)]
    if not told:
        return int(about.get("connected_slaves", 0))
    return sum(isinstance(each, dict) and each.get("state") == "online" for each in told)
