"""Private servers for tests: Redis, PostgreSQL, RabbitMQ.

Started when the first test asks, at most once a test run, on a free loopback port, as
root or not; ended by their ids whichever way the run ends.

``CRAWLFARM_TEST_REDIS_URL``, ``CRAWLFARM_TEST_POSTGRES_URL`` and
``CRAWLFARM_TEST_RABBITMQ_URL`` name servers to use instead. Where one is neither named
nor installed the test is skipped with what to install; with ``CI`` set it fails.
"""

from concurrent.futures import ThreadPoolExecutor

from tests.support.servers.base import Server, ServerFailed
from tests.support.servers.postgres import PostgresServer, RemotePostgres, postgres_server
from tests.support.servers.rabbitmq import RabbitServer, rabbitmq_server
from tests.support.servers.rabbitmq_remote import RemoteRabbit
from tests.support.servers.redis import RedisServer, RemoteRedis, redis_server

__all__ = [
    "PostgresServer",
    "RabbitServer",
    "RedisServer",
    "RemotePostgres",
    "RemoteRabbit",
    "RemoteRedis",
    "Server",
    "ServerFailed",
    "postgres_server",
    "rabbitmq_server",
    "redis_server",
    "start_all",
]


def start_all() -> None:
    """Start all three side by side, for a test that needs them all.

    :raises unittest.SkipTest: one is not to be had.
    """
    with ThreadPoolExecutor(3) as pool:
        for started in [pool.submit(start) for start in (redis_server, postgres_server, rabbitmq_server)]:
            started.result()
