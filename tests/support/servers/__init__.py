"""Private servers for tests: Redis.

Started when the first test asks, at most once a test run, on a free loopback port, as
root or not; ended by their ids whichever way the run ends.

``CRAWLFARM_TEST_REDIS_URL`` names one to use instead. Where a server is neither named
nor installed the test is skipped with what to install; with ``CI`` set it fails.
"""

from tests.support.servers.base import Server, ServerFailed
from tests.support.servers.redis import RedisServer, RemoteRedis, redis_server

__all__ = ["RedisServer", "RemoteRedis", "Server", "ServerFailed", "redis_server"]
