"""A private Redis, append-only unless told otherwise.

::

    url = redis_server().fresh(self)              # an empty logical database, this test's own
    server = RedisServer.start(self)              # a server of its own, to restart and kill
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from tests.support import packages
from tests.support.processes import HasCleanup
from tests.support.servers.base import HOST, Once, Server, installed, unavailable, wait_until

if TYPE_CHECKING:
    import redis

VARIABLE = "CRAWLFARM_TEST_REDIS_URL"
DATABASES = 512


class RedisServer(Server):
    """One Redis server.

    :ivar url: without a database number; :meth:`fresh` gives one with it.
    """

    kind = "redis"

    def __init__(self, folder: Path, port: int, *, password: str, config: Mapping[str, str]) -> None:
        super().__init__(folder, port)
        self.config = dict(config)
        self.password = password
        login = f":{quote(password, safe='')}@" if password else ""
        self.url = f"redis://{login}{HOST}:{port}"
        self._databases = _Databases(self.url)
        self._copies = itertools.count(1)

    @classmethod
    def start(
        cls,
        test: HasCleanup | None = None,
        *,
        appendonly: bool = True,
        password: str = "",
        config: Mapping[str, str] | None = None,
    ) -> RedisServer:
        """A server of one's own; with ``test``, it ends with that test.

        :param appendonly: whether it comes back from a restart with its data.
        :param config: further lines of its configuration file.
        :raises unittest.SkipTest: Redis is not installed.
        """
        installed(packages.redis, "redis-server")
        lines = {
            "appendonly": "yes" if appendonly else "no",
            "save": '""',
            "databases": str(DATABASES),
            "enable-debug-command": "local",
            "repl-diskless-sync-delay": "0",
            **({"requirepass": _quoted(password)} if password else {}),
            **(config or {}),
        }
        return cls._launch(lambda folder, port: cls(folder, port, password=password, config=lines), test)

    def fresh(self, test: HasCleanup | None = None) -> str:
        """The URL of an empty logical database; with ``test``, emptied and given back after it."""
        return self._databases.take(test)

    def client(self, database: int = 0) -> redis.Redis:
        """A blocking client; close it."""
        return connect(f"{self.url}/{database}")

    def call(self, *command: str | bytes | int | float, database: int = 0) -> Any:
        """The answer to one command: ``server.call("CONFIG", "SET", "maxmemory", "1mb")``."""
        return call(f"{self.url}/{database}", *command)

    def info(self, section: str = "default") -> dict[str, Any]:
        """What ``INFO`` says: ``server.info("commandstats")``."""
        with self.client() as client:
            return dict(client.info(section))

    # --- what a rollback needs ----------------------------------------------------------

    def snapshot(self) -> Path:
        """A copy of its append-only files as they are now, for :meth:`roll_back`."""
        wait_until(self._all_written, self.deadline_s, "the append-only file is not written")
        copy = self.folder / f"snapshot-{next(self._copies)}"
        shutil.copytree(self._data / "appendonlydir", copy)
        return copy

    def roll_back(self, snapshot: Path) -> None:
        """Kill it and start it from an older state: what came since is lost."""
        self.kill()
        shutil.rmtree(self._data / "appendonlydir")
        shutil.copytree(snapshot, self._data / "appendonlydir")
        self.up()

    def replica(self, test: HasCleanup | None = None) -> RedisServer:
        """A server that follows this one, in step with it as of now."""
        lines = {
            "replicaof": f"{HOST} {self.port}",
            **({"masterauth": _quoted(self.password)} if self.password else {}),
        }
        replica = RedisServer.start(test, password=self.password, config=lines)
        wait_until(replica._in_step, self.deadline_s, "the replica does not follow")
        return replica

    def promote(self) -> None:
        """Make a replica a primary, with what it has."""
        self.call("REPLICAOF", "NO", "ONE")

    def _in_step(self) -> bool:
        return self.info("replication").get("master_link_status") == "up"

    def _all_written(self) -> bool:
        said = self.info("persistence")
        return not any(said.get(name) for name in ("loading", "aof_buffer_length", "aof_pending_bio_fsync"))

    # --- how it is run ------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        self._data.mkdir()
        lines = [f"port {self.port}", f"bind {HOST}", f"dir {self._data}", "daemonize no"]
        lines += [f"{name} {value}" for name, value in self.config.items()]
        (self.folder / "redis.conf").write_text("\n".join(lines) + "\n")

    def _command(self) -> Sequence[str]:
        return [installed(packages.redis, "redis-server"), str(self.folder / "redis.conf")]

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        said = connection.recv(64)
        return said.startswith((b"+PONG", b"-NOAUTH"))


def _quoted(word: str) -> str:
    """As one word of a configuration file, whatever is in it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"'


class RemoteRedis:
    """The server that ``CRAWLFARM_TEST_REDIS_URL`` names: used, never restarted.

    Only databases that are empty when a test asks are used, and emptied again.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = urlunsplit((parts.scheme, parts.netloc, "", parts.query, ""))
        self._databases = _Databases(self.url)

    def fresh(self, test: HasCleanup | None = None) -> str:
        """As :meth:`RedisServer.fresh`."""
        return self._databases.take(test)

    def client(self, database: int = 0) -> redis.Redis:
        """As :meth:`RedisServer.client`."""
        return connect(f"{self.url}/{database}")

    def call(self, *command: str | bytes | int | float, database: int = 0) -> Any:
        """As :meth:`RedisServer.call`."""
        return call(f"{self.url}/{database}", *command)


class _Databases:
    """The logical databases of one server, each given to one test at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    def take(self, test: HasCleanup | None) -> str:
        with self._lock:
            url = self._first_empty()
            self._taken.add(url)
        if test is not None:
            test.addCleanup(self._give_back, url)
        return url

    def _first_empty(self) -> str:
        with connect(self._url) as client:
            count = int(client.config_get("databases")["databases"])
        numbers = list(range(1, count))
        random.shuffle(numbers)
        for number in numbers:
            url = f"{self._url}/{number}"
            if url not in self._taken and call(url, "DBSIZE") == 0:
                return url
        raise unavailable(f"all {count} databases of {self._url} are in use")

    def _give_back(self, url: str) -> None:
        call(url, "FLUSHDB", "ASYNC")
        with self._lock:
            self._taken.discard(url)


def connect(url: str) -> redis.Redis:
    """A blocking client; close it."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=20)


def call(url: str, *command: str | bytes | int | float) -> Any:
    """The answer to one command on a connection of its own."""
    with connect(url) as client:
        return client.execute_command(*command)


_shared: Once[RedisServer | RemoteRedis] = Once()


def redis_server() -> RedisServer | RemoteRedis:
    """The Redis of this test run, started when the first test asks.

    :raises unittest.SkipTest: there is none, with what to install.
    """
    url = os.environ.get(VARIABLE)
    return _shared.get(lambda: RemoteRedis(url) if url else RedisServer.start())
