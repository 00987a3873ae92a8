"""Connections to Redis: refusals in an operator's words, fail-over, and servers that are away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from crawlfarm.errors import ConfigError, Unavailable
from tests.support.commands import free_port
from tests.support.processes import Child
from tests.support.servers import RedisServer

WHERE = "CRAWLFARM_FRONTIER_URL"


def link_to(url: str, **options: Any) -> Any:
    from crawlfarm.adapters.redis.link import RedisLink

    return RedisLink(reactor, url, WHERE, **options)


class RedisLinkTests(TestCase):
    timeout = 60

    async def begin(self, url: str, **options: Any) -> Any:
        link = link_to(url, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(link.stop()))
        await link.start()
        return link

    async def refusal(self, url: str, error: type[Exception]) -> str:
        try:
            await self.begin(url)
        except error as e:
            return str(e)
        finally:
            self.flushLoggedErrors()
        raise self.failureException(f"{url} was not refused")

    async def test_wrong_password(self) -> None:
        """The setting is named, the password is not."""
        server = RedisServer.start(self, password="right-secret")
        for login in (":wrong-secret@", "", "nobody:wrong-secret@"):
            url = server.url.replace(":right-secret@", login)
            said = await self.refusal(url, ConfigError)
            self.assertIn(WHERE, said)
            self.assertNotIn("secret", said)
        link = await self.begin(server.url)
        self.assertEqual(await link.execute("PING"), "PONG")
        self.assertNotIn("secret", repr(link.address))

    async def test_missing_right(self) -> None:
        """A user who may not do it is named as such, with what Redis says."""
        server = RedisServer.start(self)
        server.call("ACL", "SETUSER", "reader", "on", ">word", "~*", "+@read", "+@connection", "+info")
        link = await self.begin(server.url.replace("redis://", "redis://reader:word@"))
        with self.assertRaises(Unavailable) as caught:
            await link.execute("SET", "a", "b")
        self.assertIn("lacks a right", str(caught.exception))
        self.assertIn(WHERE, str(caught.exception))

    async def test_too_old(self) -> None:
        """A server older than what the script needs is refused by its version, as a setting is."""
        link = link_to(RedisServer.start(self).url)
        said: list[Exception] = []

        def older(info: dict[str, str]) -> None:
            met({**info, "redis_version": "6.0.16"})

        met, link.met = link.met, older
        self.addCleanup(lambda: Deferred.fromCoroutine(link.stop()))
        try:
            await link.start()
        except ConfigError as e:
            said.append(e)
        self.assertIn("Redis 6.0.16 is too old, 6.2 is the oldest", str(said))
        self.assertIn(WHERE, str(said))
        self.flushLoggedErrors()

    async def test_no_replica(self) -> None:
        """A Redis that may not write without its replica says so, and writes go on when it may."""
        server = RedisServer.start(self)
        link = await self.begin(server.url)
        server.call("CONFIG", "SET", "min-replicas-to-write", "1")
        with self.assertRaises(Unavailable) as caught:
            await link.execute("SET", "a", "b")
        self.assertIn("takes no writes now: NOREPLICAS", str(caught.exception))
        server.call("CONFIG", "SET", "min-replicas-to-write", "0")
        self.assertEqual(await link.execute("SET", "a", "b"), "OK")

    async def test_nobody_there(self) -> None:
        """A server that is away is said to be, at once; it is found when it comes."""
        port = free_port()
        said = await self.refusal(f"redis://127.0.0.1:{port}", Unavailable)
        self.assertIn(f"nobody answers at redis://127.0.0.1:{port}", said)

    async def test_full(self) -> None:
        """At its memory limit it takes no writes: nothing is written by half, and it is told."""
        server = RedisServer.start(self, config={"maxmemory": "3mb", "maxmemory-policy": "noeviction"})
        link = await self.begin(server.url)
        with self.assertRaises(Unavailable) as caught:
            for n in range(100):
                await link.execute("SET", f"k{n}", bytes(100_000))
        self.assertIn("takes no writes now", str(caught.exception))
        self.assertIn(WHERE, str(caught.exception))

    async def test_restart(self) -> None:
        """While it is away every command fails at once; afterwards another process is noticed."""
        server = RedisServer.start(self)
        link = await self.begin(server.url)
        first = link.run_id
        await deferToThread(server.down)
        with self.assertRaises(Unavailable):
            await link.execute("PING")
        await deferToThread(server.up)
        while not link.connected:
            await deferLater(reactor, 0.01)
        self.assertEqual(await link.execute("PING"), "PONG")
        self.assertNotEqual(link.run_id, first)
        self.flushLoggedErrors()

    async def test_changes_are_heard_again(self) -> None:
        """After a reconnect the listener is told once, for whatever it missed, and listens on."""
        heard: list[int] = []
        server = RedisServer.start(self)
        link = await self.begin(server.url, channel="news", changed=lambda: heard.append(1))
        await deferToThread(server.restart)
        heard.clear()
        while not heard:
            await deferLater(reactor, 0.01)
        while not link.connected:
            await deferLater(reactor, 0.01)
        heard.clear()
        await link.execute("PUBLISH", "news", "")
        while not heard:
            await deferLater(reactor, 0.01)

    async def test_bad_addresses(self) -> None:
        """A URL that cannot be one is refused before anything is dialled, by the setting's name."""
        for url in ("redis://", "redis://host:port", "redis+sentinel://host:1", "redis://host/database"):
            with self.assertRaises(ConfigError, msg=url) as caught:
                link_to(url)
            self.assertIn(WHERE, str(caught.exception))

    async def test_sentinel(self) -> None:
        """The master that Sentinels name is used, and after a fail-over the next one."""
        master = RedisServer.start(self)
        replica = master.replica(self)
        sentinel = self.sentinel(master)
        url = f"redis+sentinel://127.0.0.1:{sentinel}/farm/0"
        link = link_to(url)
        self.addCleanup(lambda: Deferred.fromCoroutine(link.stop()))
        await self.until_started(link)
        await link.execute("SET", "a", "b")
        first = link.run_id
        await deferToThread(master.kill)
        while link.run_id == first or not link.connected:
            await deferLater(reactor, 0.05)
        self.assertEqual(replica.info("replication")["role"], "master")
        self.assertEqual(await link.execute("SET", "a", "c"), "OK")
        self.flushLoggedErrors()

    async def until_started(self, link: Any) -> None:
        """Sentinels need a moment to know each other and the master."""
        try:
            await link.start()
        except Unavailable:
            while not link.connected:
                await deferLater(reactor, 0.05)

    def sentinel(self, master: RedisServer) -> int:
        """A Sentinel that gives its master up after half a second; its port."""
        port = free_port()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor farm 127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds farm 500",
            "sentinel failover-timeout farm 2000",
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        binary = shutil.which("redis-server", path=f"{os.environ['PATH']}:/usr/bin")
        assert binary is not None
        child = Child([binary, str(folder / "sentinel.conf"), "--sentinel"])
        self.addCleanup(child.stop)
        return port
