"""A private PostgreSQL.

::

    url = postgres_server().fresh_database(self)          # an empty database, this test's own
    url = postgres_server().fresh_database(self, prepared_by=migrate)   # a copy of one it filled
    server = PostgresServer.start(self)                   # a server of its own, to restart and kill

PostgreSQL refuses to run as root: there it runs in a user namespace of its own or, where
those are forbidden, as ``nobody``.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit, urlunsplit

from tests.support import packages
from tests.support.processes import HasCleanup
from tests.support.servers.base import HOST, Once, Server, installed, wait_until
from tests.support.servers.unprivileged import someone

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

VARIABLE = "CRAWLFARM_TEST_POSTGRES_URL"
USER = "crawlfarm"
PASSWORD = secrets.token_hex(12)
"""Of the superuser on all servers of this test run."""

Prepare = Callable[[str], object]
"""Fills the database whose URL it is given."""

_CONFIG: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, where SIGKILL leaves nothing behind
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_level": "replica",
    "max_wal_size": "256MB",
    "timezone": "UTC",
}
_QUICK: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""What the kernel was given survives the process: enough where no test cuts the power."""


class Databases:
    """The databases that tests get on one server.

    :param url: of a database where a superuser may make others.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"test_{os.getpid()}_{secrets.token_hex(3)}"
        self._numbers = itertools.count(1)
        self._templates: dict[Prepare, str] = {}
        self._lock = threading.Lock()

    def fresh(self, test: HasCleanup | None, prepared_by: Prepare | None) -> str:
        """The URL of a new database; with ``test``, dropped after it."""
        with self._lock:
            template = self._template(prepared_by) if prepared_by else "template0"
            name = self._create(template)
        if test is not None:
            test.addCleanup(self.drop, name)
        return self.url_of(name)

    def url_of(self, name: str) -> str:
        """The URL of another database of the same server."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        execute(self.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def drop_templates(self) -> None:
        """Drop what ``prepared_by`` made."""
        for name in self._templates.values():
            self.drop(name)

    def _template(self, prepare: Prepare) -> str:
        if prepare not in self._templates:
            name = self._create("template0")
            prepare(self.url_of(name))
            self._templates[prepare] = name
        return self._templates[prepare]

    def _create(self, template: str) -> str:
        name = f"{self._prefix}_{next(self._numbers)}"
        execute(self.url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" ENCODING "UTF8"')
        return name


class PostgresServer(Server):
    """One PostgreSQL server.

    :ivar url: its ``postgres`` database, as a superuser.
    """

    kind = "postgres"
    stop_signal = "INT"  # "fast": clients are sent away
    end_signal = "QUIT"  # "immediate": SIGKILL would leave shared memory behind

    def __init__(self, folder: Path, port: int, *, config: Mapping[str, str], follows: PostgresServer | None) -> None:
        super().__init__(folder, port)
        self.config = dict(config)
        self.follows = follows
        self.url = f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/postgres"
        self.databases = Databases(self.url)

    @classmethod
    def start(
        cls, test: HasCleanup | None = None, *, durable: bool = False, config: Mapping[str, str] | None = None
    ) -> PostgresServer:
        """A server of one's own; with ``test``, it ends with that test.

        :param durable: write through to the disk on commit, as a benchmark must.
        :param config: further parameters of ``postgresql.conf``.
        :raises unittest.SkipTest: PostgreSQL is not installed.
        """
        return cls._start(test, None, {**_CONFIG, **({} if durable else _QUICK), **(config or {})})

    @classmethod
    def _start(cls, test: HasCleanup | None, follows: PostgresServer | None, config: Mapping[str, str]) -> Self:
        _programs()
        return cls._launch(lambda folder, port: cls(folder, port, config=config, follows=follows), test)

    def fresh_database(self, test: HasCleanup | None = None, *, prepared_by: Prepare | None = None) -> str:
        """The URL of a new database; with ``test``, it is dropped after it.

        :param prepared_by: called once a run with the URL of an empty database; this one
            is a copy of that.
        """
        return self.databases.fresh(test, prepared_by)

    def execute(self, sql: str, *values: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of one statement, run as a superuser."""
        return execute(self.databases.url_of(database), sql, *values)

    def replica(self, test: HasCleanup | None = None) -> PostgresServer:
        """A streaming replica, with everything this one has now."""
        replica = PostgresServer._start(test, self, self.config)
        replica.catch_up()
        return replica

    def catch_up(self) -> None:
        """Wait until this replica has what its primary has committed by now."""
        assert self.follows is not None, "not a replica"
        ((position,),) = self.follows.execute("SELECT pg_current_wal_lsn()::text")
        wait_until(
            lambda: self.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position)[0][0],
            self.deadline_s,
            "the replica does not follow",
        )

    def promote(self) -> None:
        """Make a replica a primary, with what it has; returns when it takes writes."""
        self.execute("SELECT pg_promote(true, 30)")

    def kill(self) -> None:
        """SIGKILL, to all its processes."""
        segment = self._shared_memory()
        super().kill()
        if segment is not None:
            _remove_shared_memory(segment)

    # --- how it is run ------------------------------------------------------------------

    @classmethod
    def _place(cls) -> Path:
        return someone().place

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        someone().owns(self.folder)
        if self.follows is None:
            with _making_cluster:
                someone().run(["cp", "-a", str(self._new_cluster()), str(self._data)])
        else:
            options = ["-D", str(self._data), "-d", self.follows.url, "-R", "-X", "stream", "-c", "fast", "--no-sync"]
            someone().run([str(_programs() / "pg_basebackup"), *options])
        lines = [f"{name} = '{value}'" for name, value in self.config.items()]
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join(["", f"port = {self.port}", *lines, ""]))

    def _new_cluster(self) -> Path:
        """As initdb leaves it, which takes a second: in the folder of the first that needs it."""
        global _cluster
        if _cluster is None or not _cluster.exists():
            _cluster = self.folder / "new"
            password = self.folder / "password"
            password.write_text(PASSWORD)
            someone().owns(password)
            options = ["-D", str(_cluster), "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}"]
            options += ["-N", "--no-locale", "-E", "UTF8", "--no-instructions"]
            someone().run([str(_programs() / "initdb"), *options])
        return _cluster

    def _command(self) -> Sequence[str]:
        return [*someone().prefix, str(_programs() / "postgres"), "-D", str(self._data)]

    def _answers(self, connection: socket.socket) -> bool:
        body = struct.pack("!i", 196608) + f"user\0{USER}\0database\0postgres\0\0".encode()
        connection.sendall(struct.pack("!i", len(body) + 4) + body)
        return connection.recv(1) == b"R"  # asks for a password; E: it is still starting

    def _shared_memory(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self._data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        return None


class RemotePostgres:
    """The server that ``CRAWLFARM_TEST_POSTGRES_URL`` names: used, never restarted.

    Its user must be allowed to make databases; the one in the URL is left alone.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.databases = Databases(url)

    def fresh_database(self, test: HasCleanup | None = None, *, prepared_by: Prepare | None = None) -> str:
        """As :meth:`PostgresServer.fresh_database`."""
        return self.databases.fresh(test, prepared_by)


def execute(url: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of one statement, on a connection of its own, outside of a transaction."""
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection that commits each statement, closed at the end."""
    import psycopg2

    connection = psycopg2.connect(url, connect_timeout=20)
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def _programs() -> Path:
    return installed(packages.postgres, "postgresql")


def _remove_shared_memory(segment: int) -> None:
    """The 56 bytes by which PostgreSQL knows that it still runs; SIGKILL leaves them."""
    ipc_rmid = 0
    ctypes.CDLL(None).shmctl(segment, ipc_rmid, None)


_cluster: Path | None = None
_making_cluster = threading.Lock()
_shared: Once[PostgresServer | RemotePostgres] = Once()


def postgres_server() -> PostgresServer | RemotePostgres:
    """The PostgreSQL of this test run, started when the first test asks.

    :raises unittest.SkipTest: there is none, with what to install.
    """
    url = os.environ.get(VARIABLE)
    return _shared.get(lambda: RemotePostgres(url) if url else PostgresServer.start())
