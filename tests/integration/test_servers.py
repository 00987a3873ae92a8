"""The private servers that other tests stand on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from twisted.trial.unittest import TestCase

from tests.support import packages
from tests.support.processes import Child, alive, start
from tests.support.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    RemotePostgres,
    RemoteRabbit,
    RemoteRedis,
    ServerFailed,
    postgres_server,
    rabbitmq_server,
    redis_server,
    start_all,
)
from tests.support.servers.base import FOLDER, HOST, wait_until
from tests.support.servers.postgres import execute
from tests.support.servers.rabbitmq_remote import MANAGEMENT_VARIABLE
from tests.support.servers.redis import call

ONE_REDIS = """
import json, sys
from tests.support.servers import RedisServer
server = RedisServer.start()
print(json.dumps({"ready": "test", "pid": server.pid, "folder": str(server.folder)}), flush=True)
"""


def until_gone(*pids: int) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids), 20, f"{pids} go on")


def processes_with(text: str) -> list[int]:
    """The processes that have ``text`` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class SharedTests(TestCase):
    """One server of each kind for the whole test run."""

    def test_each_is_started_once(self) -> None:
        """Whoever asks gets the same servers, which answer; they start side by side."""
        start_all()
        self.assertIs(redis_server(), redis_server())
        self.assertIs(postgres_server(), postgres_server())
        self.assertIs(rabbitmq_server(), rabbitmq_server())

    def test_redis_databases_are_ones_own(self) -> None:
        """Two tests get two empty databases; what one wrote is gone when it gives it back."""
        first, second = redis_server().fresh(self), redis_server().fresh(self)
        call(first, "SET", "a", "1")
        self.assertNotEqual(first, second)
        self.assertEqual(call(second, "DBSIZE"), 0)
        self.flushCleanups()
        self.assertEqual(call(first, "DBSIZE"), 0)

    def test_postgres_databases_are_ones_own(self) -> None:
        """Two tests get two empty databases, in UTF-8; they are dropped though somebody is connected."""
        import psycopg2

        first, second = postgres_server().fresh_database(self), postgres_server().fresh_database(self)
        execute(first, "CREATE TABLE t (a text)")
        execute(first, "INSERT INTO t VALUES (%s)", "ä€")
        self.assertEqual(execute(first, "SELECT a FROM t"), [("ä€",)])
        self.assertEqual(execute(second, "SELECT to_regclass('t')"), [(None,)])
        connection = psycopg2.connect(first)
        self.addCleanup(connection.close)
        self.flushCleanups()
        self.assertRaises(psycopg2.OperationalError, execute, first, "SELECT 1")

    def test_a_prepared_database_is_prepared_once(self) -> None:
        """``prepared_by`` runs once; every database is a copy of what it made, and separate."""
        calls = []

        def prepare(url: str) -> None:
            calls.append(url)
            execute(url, "CREATE TABLE t AS SELECT 1 AS a")

        first, second = (postgres_server().fresh_database(self, prepared_by=prepare) for _ in range(2))
        execute(first, "DELETE FROM t")
        self.assertEqual(execute(second, "SELECT a FROM t"), [(1,)])
        self.assertEqual(len(calls), 1)

    def test_rabbitmq_virtual_hosts_are_ones_own(self) -> None:
        """Two tests get two virtual hosts with a user each, who may not enter the other's."""
        import pika
        import pika.exceptions

        first, second = rabbitmq_server().fresh_vhost(self), rabbitmq_server().fresh_vhost(self)
        self.declare(first, "q", messages=1)
        with pika.BlockingConnection(pika.URLParameters(second)) as connection:
            channel = connection.channel()
            with self.assertRaises(pika.exceptions.ChannelClosedByBroker):
                channel.queue_declare("q", passive=True)
        stranger = urlsplit(first)._replace(path=urlsplit(second).path).geturl()
        with self.assertRaises(pika.exceptions.ProbableAccessDeniedError):
            pika.BlockingConnection(pika.URLParameters(stranger))

    def test_rabbitmq_faults(self) -> None:
        """A queue is counted and deleted, an alarm blocks publishers, rights are taken, connections closed."""
        import pika
        import pika.exceptions

        server = rabbitmq_server()
        if not isinstance(server, RabbitServer):
            raise unittest.SkipTest("the server is somebody else's")
        url = server.fresh_vhost(self)
        self.declare(url, "q", messages=3)
        self.assertEqual(server.messages(url, "q"), 3)
        server.delete_queue(url, "q")
        self.assertIsNone(server.messages(url, "q"))

        connection = pika.BlockingConnection(pika.URLParameters(url))
        self.addCleanup(lambda: connection.is_open and connection.close())
        blocked = []
        connection.add_on_connection_blocked_callback(lambda *_: blocked.append(True))
        connection.add_on_connection_unblocked_callback(lambda *_: blocked.append(False))
        channel = connection.channel()
        self.addCleanup(server.memory_alarm, False)
        server.memory_alarm(True)
        # A connection is blocked at its first publish after it heard of the alarm.
        self.until(connection, lambda: channel.basic_publish("", "nowhere", b"") or blocked == [True])
        server.memory_alarm(False)
        self.until(connection, lambda: blocked == [True, False])

        server.permit(url, configure="^$")
        with self.assertRaises(pika.exceptions.ChannelClosedByBroker):
            connection.channel().queue_declare("other")
        server.close_connections(url)
        with self.assertRaises(pika.exceptions.ConnectionClosedByBroker):
            self.until(connection, lambda: False)

    def until(self, connection: object, holds: object) -> None:
        for _ in range(200):
            if holds():
                return
            connection.process_data_events(0.05)
        self.fail("did not happen")

    def declare(self, url: str, name: str, *, messages: int) -> None:
        import pika

        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
            for _ in range(messages):
                channel.basic_publish("", name, b"x", mandatory=True)

    def flushCleanups(self) -> None:
        while self._cleanups:
            f, args, kwargs = self._cleanups.pop()
            f(*args, **kwargs)


class RedisTests(TestCase):
    """A Redis of one's own."""

    def test_data_survives_restart_and_kill(self) -> None:
        """It comes back on the same port with everything it had answered for."""
        server = RedisServer.start(self)
        for n, kill in enumerate((False, True)):
            before = server.pid
            server.call("SET", f"key{n}", "value")
            server.restart(kill=kill)
            self.assertFalse(alive(before))
            self.assertEqual(server.call("GET", f"key{n}"), b"value")

    def test_without_append_only_nothing_survives(self) -> None:
        """A cache comes back empty."""
        server = RedisServer.start(self, appendonly=False)
        server.call("SET", "key", "value")
        server.restart(kill=True)
        self.assertIsNone(server.call("GET", "key"))

    def test_rolled_back_to_a_snapshot(self) -> None:
        """What was written after the snapshot is lost, what was before is there."""
        server = RedisServer.start(self)
        server.call("SET", "old", "1")
        snapshot = server.snapshot()
        server.call("SET", "new", "1")
        server.roll_back(snapshot)
        self.assertEqual(server.call("EXISTS", "old"), 1)
        self.assertEqual(server.call("EXISTS", "new"), 0)

    def test_replica_that_lags(self) -> None:
        """A replica that was promoted lacks what its primary took afterwards."""
        server = RedisServer.start(self, password="a b#c'\"")
        server.call("SET", "old", "1")
        replica = server.replica(self)
        replica.promote()
        server.call("SET", "new", "1")
        server.kill()
        self.assertEqual((replica.call("EXISTS", "old"), replica.call("EXISTS", "new")), (1, 0))
        self.assertTrue(replica.call("SET", "newer", "1"))

    def test_no_connection_without_the_password(self) -> None:
        """A server with a password has it in its URL, and refuses others."""
        import redis

        server = RedisServer.start(self, password="secret")
        wrong = server.url.replace("secret", "wrong")
        self.assertEqual(server.call("DBSIZE"), 0)
        self.assertRaises(redis.AuthenticationError, call, wrong, "DBSIZE")


class PostgresTests(TestCase):
    """A PostgreSQL of one's own."""

    def test_data_survives_restart_and_kill(self) -> None:
        """It comes back with what was committed, and leaves no shared memory and no process behind."""
        server = PostgresServer.start(self)
        server.execute("CREATE TABLE t (a int)")
        for n, kill in enumerate((False, True)):
            before = server.pid
            server.execute("INSERT INTO t VALUES (%s)", n)
            server.restart(kill=kill)
            self.assertFalse(alive(before))
        self.assertEqual(server.execute("SELECT a FROM t ORDER BY a"), [(0,), (1,)])
        segments = len(Path("/proc/sysvipc/shm").read_text().splitlines())
        server.kill()
        self.assertEqual(len(Path("/proc/sysvipc/shm").read_text().splitlines()), segments - 1)

    def test_replica_follows_and_takes_over(self) -> None:
        """It has what was committed, refuses writes until promoted, and then takes them."""
        import psycopg2.errors

        server = PostgresServer.start(self)
        replica = server.replica(self)
        server.execute("CREATE TABLE t AS SELECT 1 AS a")
        replica.catch_up()
        self.assertRaises(psycopg2.errors.ReadOnlySqlTransaction, replica.execute, "INSERT INTO t VALUES (2)")
        server.kill()
        replica.promote()
        replica.execute("INSERT INTO t VALUES (2)")
        self.assertEqual(replica.execute("SELECT count(*) FROM t"), [(2,)])


class RabbitTests(TestCase):
    """A RabbitMQ of one's own."""

    def test_survives_kill_and_leaves_nothing(self) -> None:
        """It comes back with its virtual hosts; when it is stopped, its epmd is gone too."""
        server = RabbitServer.start(self, plugins=["rabbitmq_management"], config=self.management())
        url = server.fresh_vhost(self)
        self.remote_makes_virtual_hosts(server)
        mark = f"RABBITMQ_NODE_PORT={server.port}"
        server.kill()
        self.assertRaises(ServerFailed, server.ctl, "list_vhosts")
        self.assertEqual(processes_with(mark), [])
        server.up()
        self.assertIn(urlsplit(url).path[1:], server.eval("rabbit_vhost:list_names()"))
        self.assertIn(urlsplit(url).path[1:], server.ctl("list_vhosts"))
        self.assertGreaterEqual(len(processes_with(mark)), 2)
        server.stop()
        self.assertEqual(processes_with(mark), [])
        self.assertFalse(server.folder.exists())

    def remote_makes_virtual_hosts(self, server: RabbitServer) -> None:
        """A server named by its URL is used through its management plugin."""
        url = RemoteRabbit(server.url).fresh_vhost(self)
        name = urlsplit(url).path[1:]
        self.assertIn(name, server.eval("rabbit_vhost:list_names()"))
        f, args, kwargs = self._cleanups.pop()
        f(*args, **kwargs)
        self.assertNotIn(name, server.eval("rabbit_vhost:list_names()"))

    def management(self) -> list[str]:
        with socket.socket() as s:
            s.bind((HOST, 0))
            port = s.getsockname()[1]
        os.environ[MANAGEMENT_VARIABLE] = f"http://{HOST}:{port}"
        self.addCleanup(os.environ.pop, MANAGEMENT_VARIABLE)
        return [f"management.tcp.ip = {HOST}", f"management.tcp.port = {port}"]


class RemoteTests(TestCase):
    """Servers that somebody else runs."""

    def test_redis_of_ours_with_their_data(self) -> None:
        """Databases with anything in them are left alone."""
        theirs = RedisServer.start(self, config={"databases": "4"})
        theirs.call("SET", "precious", "1", database=1)
        theirs.call("SET", "precious", "1", database=3)
        self.assertEqual(RemoteRedis(f"{theirs.url}/1").fresh(self), f"{theirs.url}/2")
        self.assertEqual(theirs.call("DBSIZE", database=1), 1)

    def test_postgres(self) -> None:
        """Databases are made beside the one in the URL."""
        url = RemotePostgres(postgres_server().url).fresh_database(self)
        self.assertEqual(execute(url, "SELECT 1"), [(1,)])

    def test_what_is_missing_is_said(self) -> None:
        """A server that is not installed skips the test with the command to install it, under CI it fails."""
        self.patch(packages, "redis", lambda: None)
        environ = os.environ.pop("CI", None)
        self.addCleanup(lambda: os.environ.pop("CI", None) if environ is None else os.environ.update(CI=environ))
        with self.assertRaisesRegex(unittest.SkipTest, "apt install .*redis-server"):
            RedisServer.start(self)
        os.environ["CI"] = "1"
        self.assertRaises(ServerFailed, RedisServer.start, self)


class EndTests(TestCase):
    """Nothing outlives the test process."""

    def end(self, code: str, number: int | None = None) -> None:
        child = start(["python", "-c", ONE_REDIS + code], test=self)
        pid, folder = child.ready["pid"], Path(child.ready["folder"])
        self.assertTrue(alive(pid) and folder.exists())
        if number is not None:
            child.signal(number)
        child.wait(20)
        until_gone(pid)
        wait_until(lambda: not folder.exists(), 20, f"{folder} stays")

    def test_end_of_the_program(self) -> None:
        """It ends by itself."""
        self.end("")

    def test_uncaught_exception(self) -> None:
        """It ends by an exception."""
        self.end("1 / 0")

    def test_sigterm(self) -> None:
        """It is told to end, and has no handler for it."""
        self.end("sys.stdin = __import__('signal').pause()", signal.SIGTERM)

    def test_sigkill(self) -> None:
        """It is killed, while its server is paused."""
        self.end("server.pause(); __import__('signal').pause()", signal.SIGKILL)

    def test_daemons_too(self) -> None:
        """What a server started goes with it, though it left the session and its parent."""
        keeper = Path(__file__).parents[1] / "support" / "servers" / "keeper.py"
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        script = f"(setsid sleep 1000 & echo $! > {folder}/daemon.new; mv {folder}/daemon.new {folder}/daemon) & wait"
        command = ["python", "-I", str(keeper), "--remove", str(folder), "--log", str(folder / "log"), "--"]
        with Child([*command, "sh", "-c", f"{script}; sleep 1000"], stdin=subprocess.PIPE) as child:
            pid = child.wait_ready()["pid"]
            wait_until((folder / "daemon").exists, 20, "no daemon")
            daemon = int((folder / "daemon").read_text())
            child.process.stdin.close()
            child.wait(20)
        self.assertFalse(alive(pid) or alive(daemon) or folder.exists())

    def test_folders_of_dead_runs_are_removed(self) -> None:
        """A run that had no chance to clean up is cleaned up after by the next."""
        with subprocess.Popen(["true"]) as gone:
            pass
        FOLDER.mkdir(parents=True, exist_ok=True)
        left = FOLDER / f"{gone.pid}-crawlfarm-redis-test"
        left.mkdir()
        RedisServer.start(self)
        self.assertFalse(left.exists())
