"""The address guard: what must not be reached is never dialled, however it is named.

Nothing here leaves the machine: names are resolved in the test, dials are recorded, and
only those to loopback are let through.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import Any

import msgspec
from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from crawlfarm.adapters.memory.frontier import MemoryFrontier
from crawlfarm.config import Config
from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.levels import fold
from crawlfarm.errors import BlockedAddress
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.crawl import Crawl
from crawlfarm.middlewares.guard import GuardedHTTPHandler
from crawlfarm.spiders.site import SiteSpider
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import PageRecord
from tests.support.crawling import whole_log
from tests.support.spying import SpyFrontier
from tests.support.tinysite import Reply, TinySite

reactor: Any = installed
BLOCKED = "skipped:blocked_address"
METADATA = "169.254.169.254"


@implementer(IHostnameResolver, IHostResolution)
class Names:
    """Resolves what it is told to, numbers as the C library does, and nothing else."""

    name = "names"

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names = names
        self.asked: list[str] = []

    def resolveHostName(self, receiver: Any, hostName: str, portNumber: int = 0, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(hostName)
        receiver.resolutionBegan(self)
        for address in self.names.get(hostName, self._number(hostName)):
            kind = IPv6Address if ":" in address else IPv4Address
            receiver.addressResolved(kind("TCP", address, portNumber))
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None: ...

    def _number(self, host: str) -> list[str]:
        if ":" in host:
            return [host]
        try:
            return [socket.inet_ntoa(socket.inet_aton(host))]
        except OSError:
            return []


class GuardTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.dialled: list[str] = []
        self.elsewhere: dict[str, str] = {}
        self.names = Names({})
        before = reactor.installNameResolver(self.names)
        self.addCleanup(reactor.installNameResolver, before)
        connect = reactor.connectTCP

        def connectTCP(host: str, port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
            self.dialled.append(host)
            host = self.elsewhere.get(host, host)
            if host != "127.0.0.1":
                return factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
            return connect(host, port, factory, *args, **kwargs)

        self.patch(reactor, "connectTCP", connectTCP)

    async def crawl(self, url: str, *allow: str, depth: int = 2, store: Any = None) -> dict[str, PageRecord]:
        frontier = store or MemoryFrontier(reactor, FrontierModel())
        config = Config(allow_networks=tuple(map(ipaddress.ip_network, allow)))
        await Crawl(config, Attachment(frontier, "master", ("job", JobSpec(url, depth), 1)), "site").start()
        return fold(await whole_log(frontier, "job"))

    async def disposition(self, url: str, *allow: str) -> str:
        """Of a crawl of one page."""
        (record,) = (await self.crawl(url, *allow, depth=1)).values()
        return record.disposition

    async def test_addresses_however_written(self) -> None:
        """No literal of an address that is not public is dialled: not in decimal, octal or hex, not
        shortened, not in IPv6, not in other digits."""
        hosts = (
            *("127.0.0.2", "10.0.0.1", "192.168.0.1", METADATA, "0.0.0.0", "255.255.255.255"),
            *("2130706434", "0x7f000002", "017700000002", "127.2", "0x7f.2", "0251.0376.0251.0376", "2852039166"),
            *("[::1]", "[::ffff:127.0.0.2]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[fd00::1]", "[64:ff9b::a9fe:a9fe]"),
            *("[2002:7f00:2::]", "[::127.0.0.2]", "１２７.0.0.2", "①②⑦.0.0.2", "127。0。0。2"),
        )
        site = TinySite(self, {"/": Reply(tuple(f"{s}://{host}:8080/" for host in hosts for s in ("http", "https")))})
        records = await self.crawl(site.url("/"), "127.0.0.1/32")
        self.assertGreater(len(records), 40)
        for url, record in records.items():
            self.assertEqual(record.disposition, "fetched" if url == site.url("/") else BLOCKED, url)
        self.assertEqual(set(self.dialled), {"127.0.0.1"})

    async def test_seeds(self) -> None:
        """The seed is judged like any other page."""
        for url in ("http://127.0.0.1:8080/", f"https://{METADATA}/", "http://0x7f.1/", "http://[::ffff:127.0.0.1]/"):
            self.assertEqual(await self.disposition(url), BLOCKED, url)
        self.assertEqual(self.dialled, [])

    async def test_a_name_of_a_private_address(self) -> None:
        """Names are judged by what they resolve to; no text of the record or the logs tells what that is."""
        self.names.names = {"inside.example": ["10.20.30.40"], "six.example": ["fd00::abcd"]}
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)
        for name, address in (("inside.example", "10.20.30.40"), ("six.example", "fd00::abcd")):
            records = await self.crawl(f"http://{name}/")
            (record,) = records.values()
            self.assertEqual(record.disposition, BLOCKED)
            self.assertNotIn(address, msgspec.json.encode(record).decode())
            self.assertNotIn(address, "\n".join(lines))
        self.assertEqual(self.dialled, [])

    async def test_a_name_without_an_address(self) -> None:
        """Is not blocked: it is unknown."""
        self.assertEqual(await self.disposition("http://nowhere.example/"), "failed:dns")

    async def test_mixed_answers(self) -> None:
        """Of a name's addresses only those that may be are dialled, in whichever order they come."""
        site = TinySite(self, {"/": Reply()})
        port = site.origin.rpartition(":")[2]
        for answer in (["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "10.0.0.1"], [METADATA, "fe80::1", "127.0.0.1"]):
            self.names.names = {"mixed.example": answer}
            self.assertEqual(await self.disposition(f"http://mixed.example:{port}/", "127.0.0.0/8"), "fetched")
        self.assertEqual(await self.disposition(f"http://mixed.example:{port}/"), BLOCKED)
        self.assertEqual(set(self.dialled), {"127.0.0.1"})

    async def test_redirects(self) -> None:
        """Every hop is judged: a page that leads to what must not be reached is blocked there."""
        self.names.names = {"inside.example": ["10.0.0.1"], "site.example": ["127.0.0.1"]}
        hops = {
            "/1": f"http://{METADATA}/latest/meta-data/",
            "/2": "http://inside.example/",
            "/3": "http://[::ffff:10.0.0.1]/",
            "/4": "//2852039166/",
            "/5": "/1",
            "/6": "http://127.0.0.2/",
        }
        pages = {path: Reply(status=302, headers={"Location": to}) for path, to in hops.items()}
        site = TinySite(self, {"/": Reply(tuple(hops)), **pages})
        records = await self.crawl(site.url("/"), "127.0.0.1/32")
        self.assertEqual(
            {r.url.removeprefix(site.origin): r.disposition for r in records.values()},
            {"/": "fetched"} | dict.fromkeys(hops, BLOCKED),
        )
        self.assertEqual(set(self.dialled), {"127.0.0.1"})

    async def test_links(self) -> None:
        """A page's links to what must not be reached are found, and not dialled."""
        site = TinySite(self, {"/": Reply((f"http://{METADATA}/", "http://10.0.0.1/", "http://user:pw@10.0.0.2/"))})
        records = await self.crawl(site.url("/"), "127.0.0.1/32")
        self.assertEqual([r.disposition for r in records.values()], ["fetched", BLOCKED, BLOCKED, BLOCKED])
        self.assertEqual(set(self.dialled), {"127.0.0.1"})

    async def test_opened_networks(self) -> None:
        """What the operator opened is fetched, and the frontier hears that it is one's own; blocked pages
        are not asked for again."""
        site = TinySite(self, {"/": Reply(("/a",)), "/a": Reply()})
        spy = SpyFrontier(MemoryFrontier(reactor, FrontierModel()))
        records = await self.crawl(site.url("/"), "127.0.0.0/8", store=spy)
        self.assertEqual({r.disposition for r in records.values()}, {"fetched"})
        self.assertEqual([f.own_network for f, _ in spy.finishes if f.ref.url], [True, True])

    async def test_the_peer_is_judged_too(self) -> None:
        """Should a connection end somewhere else than it was dialled, its answer is not used."""
        site = TinySite(self, {"/": Reply()})
        self.elsewhere = {"127.0.0.2": "127.0.0.1"}
        self.names.names = {"site.example": ["127.0.0.2"]}
        url = f"http://site.example:{site.origin.rpartition(':')[2]}/"
        self.assertEqual(await self.disposition(url, "127.0.0.2/32"), BLOCKED)
        self.assertEqual(await self.disposition(url, "127.0.0.0/8"), "fetched")

    async def test_no_way_round(self) -> None:
        """A proxy or a local address in a request's meta is not used."""
        settings = Settings({"CRAWLFARM_ALLOW_NETWORKS": "127.0.0.0/8", "TELNETCONSOLE_ENABLED": False})
        crawler = Crawler(SiteSpider, settings)
        crawler._apply_settings()
        handler = GuardedHTTPHandler(crawler)
        for proxy in ("http://127.0.0.1:1/", "https://127.0.0.1:1/"):
            request = Request("http://10.0.0.1/", meta={"proxy": proxy, "bindaddress": ("10.0.0.9", 0)})
            asked = Deferred.fromFuture(asyncio.ensure_future(handler.download_request(request)))
            error = await self.assertFailure(asked, BlockedAddress)
            self.assertNotIn("10.0.0.1", str(error))
        self.assertEqual(self.dialled, [])
        await Deferred.fromFuture(asyncio.ensure_future(handler.close()))
