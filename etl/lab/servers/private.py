"""Private servers out of wheels, for the demo and the tests: PostgreSQL 18, Valkey 9, a Redis Cluster of three.

They need no container, no root and no system package, keep their data in a folder of yours, and end with your process.
This is the front door; what each server wants is in `embedded_postgres` and `embedded_redis`, and what any process
wants in `_process`.
"""

from etl.lab.servers.postgres import PrivatePostgres
from etl.lab.servers.redis import PrivateCluster, PrivateRedis

__all__ = ["PrivateCluster", "PrivatePostgres", "PrivateRedis"]
