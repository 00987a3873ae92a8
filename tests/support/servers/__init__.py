"""Private servers for tests: Redis, PostgreSQL, RabbitMQ.

Started when the first test asks, at most once a test run, on a free loopback port, as
root or not; ended by their ids whichever way the run ends.

``CRAWLFARM_TEST_REDIS_URL``, ``CRAWLFARM_TEST_POSTGRES_URL`` and
``CRAWLFARM_TEST_RABBITMQ_URL`` name servers to use instead. Where one is neither named
nor installed the test is skipped with what to install; with ``CI`` set it fails.
"""

from tests.support.servers.base import Server, ServerFailed
from tests.support.servers.postgres import PostgresServer, RemotePostgres, postgres_server
from tests.support.servers.redis import RedisServer, RemoteRedis, redis_server

__all__ = [
    "PostgresServer",
    "RedisServer",
    "RemotePostgres",
    "RemoteRedis",
    "Server",
    "ServerFailed",
    "postgres_server",
    "redis_server",
]
