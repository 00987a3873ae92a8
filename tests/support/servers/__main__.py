"""``make servers``: private servers for a developer, until Ctrl-C.

Prints the lines to paste into another terminal. What the servers kept is gone afterwards.
"""

from __future__ import annotations

import signal
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

from tests.support import packages
from tests.support.servers import PostgresServer, RabbitServer, RedisServer, Server, ServerFailed
from tests.support.servers.base import wait_until

CACHE = {"maxmemory": "256mb", "maxmemory-policy": "allkeys-lru"}


def start() -> tuple[dict[str, str], list[Server]]:
    """The servers, and the environment that uses them."""
    with ThreadPoolExecutor(4) as pool:
        broker_comes = pool.submit(RabbitServer.start)
        database_comes = pool.submit(PostgresServer.start)
        frontier_comes = pool.submit(RedisServer.start)
        cache_comes = pool.submit(RedisServer.start, appendonly=False, config=CACHE)
    broker, database = broker_comes.result(), database_comes.result()
    frontier, cache = frontier_comes.result(), cache_comes.result()
    database.execute("CREATE DATABASE crawlfarm")
    environment = {
        "CRAWLFARM_BROKER_URL": broker.url,
        "CRAWLFARM_FRONTIER_URL": f"{frontier.url}/0",
        "CRAWLFARM_CACHE_URL": f"{cache.url}/0",
        "CRAWLFARM_DATABASE_URL": database.databases.url_of("crawlfarm"),
    }
    return environment, [broker, database, frontier, cache]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main() -> int:
    names = ["redis-server", "postgresql", "rabbitmq-server"]
    if absent := packages.install_missing(names):
        say(f"not installed: {packages.how_to_install(absent)}")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say("starting Redis, PostgreSQL and RabbitMQ")
    try:
        environment, running = start()
        print("\n".join(f"export {name}={url}" for name, url in environment.items()), flush=True)  # noqa: T201
        say("paste these lines into another terminal; Ctrl-C here ends the servers and removes what they kept")
        wait_until(lambda: next((s for s in running if not s.running), None), float("inf"), "")
    except KeyboardInterrupt:
        return 130
    except (ServerFailed, unittest.SkipTest) as e:
        say(str(e))
        return 1
    say("one of the servers ended by itself")
    return 1


if __name__ == "__main__":
    sys.exit(main())
