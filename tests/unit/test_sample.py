"""The sample site that ``crawlfarm run --sample`` crawls."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from crawlfarm.cli import sample
from tests.support import bfs


class SamplePagesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.pages = sample._Pages(self.clock, sample.sample_pages())

    def ask(self, path: str) -> Any:
        request = DummyRequest([])
        request.uri = path.encode()
        self.assertEqual(self.pages.render(request), NOT_DONE_YET)
        return request

    def test_one_at_a_time(self) -> None:
        """A page is answered only when the one before it is, as on a small server."""
        first, second = self.ask("/birds/"), self.ask("/plants/")
        self.clock.advance(0.061)
        self.assertEqual((first.finished, second.finished), (1, 0))
        self.clock.advance(0.061)
        self.assertEqual(second.finished, 1)

    def test_slow_page(self) -> None:
        """A slow page holds up nobody but itself."""
        slow, quick = self.ask("/today"), self.ask("/birds/")
        self.clock.pump([0.061, 0.061])
        self.assertEqual((slow.finished, quick.finished), (0, 1))
        self.clock.advance(sample.SLOW_MS / 1000)
        self.assertEqual(slow.finished, 1)

    def test_query_order(self) -> None:
        """Both orders of a query are the same page."""
        one, other = self.ask("/journal?day=3&year=1908"), self.ask("/journal?year=1908&day=3")
        self.clock.pump([0.061, 0.061])
        self.assertEqual(one.written, other.written)
        self.assertIn(b"Journal, day 3", one.written[0])

    def test_asker_left(self) -> None:
        """An answer nobody waits for any more is not sent."""
        request = self.ask("/birds/")
        request.processingFailed(Exception("gone"))
        self.clock.advance(0.061)
        self.assertEqual(request.written, [])

    def test_stop(self) -> None:
        """A stopped site leaves no timer behind."""
        self.ask("/today")
        self.ask("/birds/")
        self.clock.advance(0.061)
        self.pages.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SampleSiteTests(TestCase):
    def setUp(self) -> None:
        self.patch(sample, "DWELL_MS", (0, 0))
        self.patch(sample, "SLOW_MS", 0)
        self.site = sample.SampleSite(reactor)

    async def test_crawl(self) -> None:
        """The site is what its description says: five levels, and a little of everything."""
        url = await self.site.start()
        self.addCleanup(self.site.stop)
        answer = await deferToThread(bfs.crawl, url, 6, "host")
        self.assertEqual([len(level) for level in answer.levels], [1, 7, 35, 15, 7, 0])
        self.assertEqual(answer.receipt["skipped"], {"extension": 1, "scope": 1})
        self.assertEqual(answer.receipt["failed"], {})
        self.assertEqual(answer.pages[url + "paths/old-bridge"].status, 404)
        self.assertEqual(answer.pages[url + "birds/sea-parrot"].status, 200)
        self.assertEqual(answer.pages["http://192.0.2.1/"].disposition, "skipped:scope")

    async def test_stop_drops_connections(self) -> None:
        """After ``stop`` nobody listens, and those connected are disconnected."""
        url = await self.site.start()
        port = int(url.rpartition(":")[2].strip("/"))

        def connect() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertTrue(connection.recv(1))
            return connection

        connection = await deferToThread(connect)
        self.addCleanup(connection.close)
        await self.site.stop()

        def gone() -> bool:
            try:
                while connection.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            with socket.socket() as another:
                return another.connect_ex(("127.0.0.1", port)) != 0

        self.assertTrue(await deferToThread(gone))
