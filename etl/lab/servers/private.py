"""Private servers out of wheels, for the demo and the tests: PostgreSQL 18 and a standby, Valkey 9, a Redis Cluster of
three, a replica with three sentinels.

They need no container, no root and no system package, keep their data in a folder of yours, and end with your process.
Import them from here; the modules beside it have each server and what they share.
"""

from etl.lab.servers.postgres import PrivatePostgres
from etl.lab.servers.redis import PrivateCluster, PrivateRedis
from etl.lab.servers.sentinel import PrivateSentinels
from etl.lab.servers.service import PostgresService, RedisService
from etl.lab.servers.standby import PrivateStandby

__all__ = [
    "PostgresService",
    "PrivateCluster",
    "PrivatePostgres",
    "PrivateRedis",
    "PrivateSentinels",
    "PrivateStandby",
    "RedisService",
]
