"""The yardsticks themselves: the generated sites, their server, the independent crawl.

A truth that is wrong makes every test against it worthless, so it is proved twice: what
:mod:`tests.support.bfs` finds by crawling is what :mod:`tests.support.graphs` knows.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support import bfs, doctrees, packages
from tests.support.answer import Answer, Page
from tests.support.bigsite import BigSite
from tests.support.doctrees import DocTrees
from tests.support.graphs import Addresses, Graph, generate, generate_all
from tests.support.processes import Child, ChildFailed, alive, start
from tests.support.site import Site, normal

LONG = bool(os.environ.get("CRAWLFARM_TEST_LONG"))
GRAPHS = 200 if LONG else 20
ADDRESSES = Addresses("localhost:30000", "127.0.0.1:30000", "localhost:30001")


class AnswerTests(SynchronousTestCase):
    pages = {  # noqa: RUF012
        "http://h/": Page(0, "failed:refused"),
        "http://h/b": Page(1, "fetched", 200),
        "http://h/a": Page(1, "fetched", 404),
        "http://h/x.png": Page(1, "skipped:extension"),
        "http://h/c": Page(2, "fetched", 200),
    }

    def test_levels(self) -> None:
        """Level 0 is the seed whatever became of it; the others are what was fetched, sorted."""
        answer = Answer("http://h/", 4, self.pages)
        self.assertEqual(answer.levels, [["http://h/"], ["http://h/a", "http://h/b"], ["http://h/c"], []])

    def test_receipt(self) -> None:
        """The receipt counts every disposition once."""
        self.assertEqual(
            Answer("http://h/", 3, self.pages).receipt,
            {"found": 5, "fetched": 3, "failed": {"refused": 1}, "skipped": {"extension": 1}, "complete": True},
        )

    def test_cut(self) -> None:
        """A shallower answer holds what is nearer than its depth."""
        answer = Answer("http://h/", 3, self.pages).cut(2)
        self.assertEqual(answer.levels, [["http://h/"], ["http://h/a", "http://h/b"]])
        self.assertEqual(answer.receipt["found"], 4)

    def test_differences(self) -> None:
        """One page at another depth, missing or ended otherwise is a difference."""
        answer = Answer("http://h/", 3, self.pages)
        self.assertEqual(answer.differences(answer), [])
        for wrong in (Page(1, "fetched", 200), Page(2, "fetched", 404), Page(2, "failed:dns"), None):
            pages = {**self.pages, "http://h/c": wrong}
            other = Answer("http://h/", 3, {url: page for url, page in pages.items() if page is not None})
            self.assertEqual(len(answer.differences(other)), 1, wrong)


class GraphTests(SynchronousTestCase):
    def test_same_seed_same_site(self) -> None:
        """A number is one site, always, and JSON carries all of it."""
        for number in (0, 7, 123):
            graph = generate(number)
            self.assertEqual(graph, generate(number))
            self.assertEqual(graph, Graph.from_json(graph.to_json()))
        self.assertNotEqual(generate(1).nodes, generate(2).nodes)

    def test_everything_occurs(self) -> None:
        """What makes a crawl hard is in the sites, and is met by a crawl of them."""
        seen: Counter[str] = Counter()
        for graph in generate_all(60):
            answer = graph.answer(ADDRESSES)
            seen.update(page.disposition for page in answer.pages.values())
            seen.update(f"status {page.status}" for page in answer.pages.values())
            seen[f"scope {graph.scope}"] += 1
            seen["redirected seed"] += bool(graph.node(graph.start).redirect_target)
            for node in graph.nodes.values():
                if ADDRESSES.url(node.url) not in answer.pages:
                    continue
                seen["self link"] += any(link.target == node.url for link in node.links)
                seen["fragment"] += any("#" in link.href for link in node.links)
                seen["nofollow"] += any("nofollow" in link.form for link in node.links)
                seen["area"] += any("<area" in link.form for link in node.links)
                seen["empty href"] += any(link.href == "" for link in node.links)
                seen["upper case host"] += any("LOCALHOST" in link.href for link in node.links)
                seen["other query order"] += any("id=" in ln.href and "&a=1" in ln.href for ln in node.links)
                seen["base"] += bool(node.base)
                seen["meta refresh"] += bool(node.meta_refresh)
                seen["flaky"] += bool(node.flaky)
                seen["slow"] += node.delay_ms >= 100
                seen["redirect to a redirect"] += bool(graph.node(node.redirect_target or "x").redirect_target)
                seen["plain text with links"] += node.content_type.startswith("text/plain") and bool(node.links)
                seen["xhtml"] += "xhtml" in node.content_type
        for name in (
            *("fetched", "failed:refused", "failed:redirects"),
            *("skipped:scope", "skipped:extension", "skipped:url_length"),
            *("status 404", "status 410", "status 500", "status 503", "status 302", "scope any", "scope host"),
            *("redirected seed", "self link", "fragment", "nofollow", "area", "empty href", "upper case host"),
            *("other query order", "base", "meta refresh", "flaky", "slow", "redirect to a redirect"),
            *("plain text with links", "xhtml"),
        ):
            self.assertGreater(seen[name], 0, name)

    def test_shorter_paths_come_late(self) -> None:
        """Five consumers that keep the first depth they see are wrong on most of the sites."""
        wrong = sum(_first_seen(graph, 5) != _depths(graph) for graph in generate_all(30))
        self.assertGreater(wrong, 15)

    def test_one_consumer_in_order(self) -> None:
        """A single consumer in order is exact: the delays alone make no difference."""
        for graph in generate_all(30):
            self.assertEqual(_first_seen(graph, 1), _depths(graph), graph.number)


def _depths(graph: Graph) -> dict[str, int]:
    answer = graph.answer(ADDRESSES, scope="any")
    return {url: page.depth for url, page in answer.pages.items()}


def _first_seen(graph: Graph, consumers: int) -> dict[str, int]:
    """The depths that a crawl which never lowers one would come to."""
    depths = {graph.start: 0}
    queue, running, now, started = [graph.start], [], 0, 0
    while queue or running:
        queue.sort(key=depths.__getitem__)
        while queue and len(running) < consumers:
            url = queue.pop(0)
            node, cost = graph.node(url), graph.node(url).delay_ms + 5
            for _ in range(20):
                if not node.redirect_target:
                    break
                node = graph.node(node.redirect_target)
                cost += node.delay_ms + 5
            started += 1
            heapq.heappush(running, (now + cost, started, url))
        now, _, url = heapq.heappop(running)
        final, outcome = graph._settle(url, None)
        if outcome != "fetched" or not final.followed or depths[url] >= graph.depth - 1:
            continue
        for link in final.links:
            if link.target and link.target not in depths:
                depths[link.target] = depths[url] + 1
                if not graph._skip(link.target, "any", graph.start, ADDRESSES):
                    queue.append(link.target)
    return {ADDRESSES.url(url): depth for url, depth in depths.items()}


class TwoTruthsTests(SynchronousTestCase):
    def test_generated_sites(self) -> None:
        """Crawling a generated site finds exactly what its structure says, in either scope."""
        for number in range(GRAPHS):
            with Site.of_graph(number) as site:
                assert site.graph is not None
                site.scale_delays(0)
                for scope in ("any", "host"):
                    site.reset()
                    found = bfs.crawl(site.seed, site.graph.depth, scope)
                    known = site.answer(scope=scope)
                    self.assertEqual(known.differences(found), [], f"graph {number}, scope {scope}")
                    self.assertEqual(known.levels, found.levels)
                    self.assertEqual(known.receipt, found.receipt)
                    never = [path for path in site.stats()["counts"] if "never" in path]
                    self.assertEqual(never, [], "what is no link was asked for")

    def test_every_depth(self) -> None:
        """A deep answer cut is the answer of a shallow crawl."""
        site = Site.of_graph(3, test=self)
        site.scale_delays(0)
        deep = bfs.crawl(site.seed, 8)
        for depth in range(1, 9):
            site.reset()
            self.assertEqual(deep.cut(depth).differences(bfs.crawl(site.seed, depth)), [])
            self.assertEqual(deep.cut(depth).differences(site.answer(depth, "any")), [])

    def test_big_site(self) -> None:
        """The big site's answer is what a crawl of it finds."""
        big = BigSite(pages=400, fanout=12, slow_every=7, slow_ms=300)
        site = Site.of_big(big, test=self)
        site.scale_delays(0)
        answer = big.answer(site.origin, 4)
        self.assertEqual(answer.differences(bfs.crawl(site.seed, 4)), [])
        self.assertGreater(len(answer.levels[3]), 20)


class SiteTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """The server counts every request under one name for all spellings, until reset."""
        site = Site.of_big(BigSite(pages=20, fanout=4), test=self)
        answer = bfs.crawl(site.seed, 3)
        stats = site.stats()
        self.assertEqual(stats["total"], answer.receipt["fetched"])
        self.assertEqual(set(stats["counts"].values()), {1})
        site.reset()
        self.assertEqual(site.stats()["total"], 0)

    def test_spellings(self) -> None:
        """Escapes, dot segments and query order do not matter to the server."""
        for spelling in ("/caf%c3%a9/p?b=2&a=1", "/x/../caf%C3%A9/./p?a=1&b=2", "/%63af%C3%A9/p?a=%31&b=2"):
            self.assertEqual(normal(spelling), normal("/caf%C3%A9/p?a=1&b=2"))
        self.assertNotEqual(normal("/a/"), normal("/a"))
        self.assertNotEqual(normal("/a?x="), normal("/a"))

    def test_pipelining(self) -> None:
        """Requests sent at once are answered one after the other, on one connection."""
        site = Site.of_big(BigSite(pages=3, fanout=2, branches=2), test=self)
        with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
            request = b"GET /page/%d HTTP/1.1\r\nHost: x\r\n"
            connection.sendall(b"\r\n".join([request % 0, request % 1, request % 9 + b"Connection: close\r\n", b""]))
            with connection.makefile("rb") as answers:
                text = answers.read()
        self.assertEqual([text.count(b"HTTP/1.1 200"), text.count(b"HTTP/1.1 404")], [2, 1])
        self.assertLess(text.index(b"<title>page 0"), text.index(b"<title>page 1"))

    def test_flaky(self) -> None:
        """A flaky page fails first and then answers; after a reset it fails again."""
        graph = generate(0)
        start_node = graph.nodes[graph.start]
        start_node.flaky = 2
        site = Site.of_graph(graph, test=self, folder=Path(self.mktemp()))
        for _ in range(2):
            self.assertEqual(bfs.crawl(site.seed, 1).pages[site.addresses.url(graph.start)].status, start_node.status)
            self.assertEqual(site.stats()["total"], 3)
            site.reset()

    def test_refused(self) -> None:
        """Nobody answers at the address where connections are refused."""
        site = Site.of_graph(1, test=self)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(site.addresses.refused.rpartition(":")[2])), timeout=5)


def _page(body: bytes, content_type: str = "text/html", url: str = "http://h/d/p", status: int = 200) -> bfs.Response:
    return bfs.Response(url, status, content_type, body)


class CrawlTests(SynchronousTestCase):
    """Where the independent crawl reads DESIGN.md, section 4."""

    def test_links(self) -> None:
        """``a`` and ``area``, white space stripped, http and https only."""
        page = _page(
            b"<a href=' x '>1</a><AREA HREF=/y><a href='mailto:a@b'></a><link href=z><!-- <a href=c> -->"
            b"<a href='//o/p'></a><a name=n></a><a href=''></a><a href='https://s/#f'></a><a href='http://h:0/'></a>"
        )
        expected = ["http://h/d/x", "http://h/y", "http://o/p", "http://h/d/p", "https://s/"]
        self.assertEqual(bfs.links_of(page), expected)

    def test_base(self) -> None:
        """The first ``base`` with an ``href`` counts, itself relative to the page."""
        page = _page(b"<base target=x><base href='../e/'><base href='/no/'><a href=q>1</a><a href=''>2</a>")
        self.assertEqual(bfs.links_of(page), ["http://h/e/q", "http://h/e/"])

    def test_only_pages_are_read(self) -> None:
        """Links count on 2xx pages of HTML and XHTML."""
        link = b"<a href=x>1</a>"
        self.assertEqual(len(bfs.links_of(_page(link, "Application/XHTML+xml; charset=utf-8", status=203))), 1)
        for content_type, status in (("text/plain", 200), ("application/json", 200), ("", 200), ("text/html", 404)):
            self.assertEqual(bfs.links_of(_page(link, content_type, status=status)), [])

    def test_encodings(self) -> None:
        """The text comes out right by header, by ``meta``, by mark and by guess; queries go out in it."""
        text = "<a href='/é?q=é'>1</a>"
        utf8, latin = ["http://h/%C3%A9?q=%C3%A9"], ["http://h/%C3%A9?q=%E9"]
        self.assertEqual(bfs.links_of(_page(text.encode())), utf8)
        self.assertEqual(bfs.links_of(_page(text.encode("utf-8-sig"), "text/html; charset=latin-1")), utf8)
        self.assertEqual(bfs.links_of(_page(text.encode("latin-1"))), latin)
        self.assertEqual(bfs.links_of(_page(text.encode("latin-1"), 'text/html; charset="ISO-8859-1"')), latin)
        self.assertEqual(bfs.links_of(_page(b"<meta charset=utf-8>" + text.encode())), utf8)
        missing = _page(b"<a href='/?q=&eacute;'>1</a>", "text/html; charset=windows-1251")
        self.assertEqual(bfs.links_of(missing), ["http://h/?q=%26%23233%3B"])

    def test_skip_reasons(self) -> None:
        """Scope is tested first, then length, then extension."""
        far, long = "http://o/x.pdf", f"http://h/{'x' * 2100}.pdf"
        self.assertEqual(bfs.skip_reason(far, "host", "http://h:1/"), "scope")
        self.assertEqual(bfs.skip_reason(far, "any", "http://h:1/"), "extension")
        self.assertEqual(bfs.skip_reason(long, "host", "http://h:1/"), "url_length")
        self.assertEqual(bfs.skip_reason("https://h:2/a.pdf/b?x=.pdf", "host", "http://h:1/"), "")

    def test_unresolvable(self) -> None:
        """A seed that does not resolve is a crawl with one failed page."""
        answer = bfs.crawl("http://name.invalid/", 3)
        self.assertEqual(answer.receipt["failed"], {"dns": 1})
        self.assertEqual(answer.levels, [["http://name.invalid/"], [], []])

    def test_command(self) -> None:
        """The crawl runs as a command and writes levels and receipt as JSON."""
        site = Site.of_big(BigSite(pages=10, fanout=3), test=self)
        output = Path(self.mktemp()).absolute()
        child = Child(["python", "-m", "tests.support.bfs", site.seed, "--depth", "2", "-o", str(output)])
        self.assertEqual(child.wait(), 0, child.stderr)
        result = json.loads(output.read_text())
        self.assertEqual([len(level) for level in result["levels"]], [1, 4])
        self.assertEqual(result["receipt"]["found"], 5)


class DocTreesTests(SynchronousTestCase):
    def test_serves_and_leaves_nothing(self) -> None:
        """Each tree is served whole on its own port; afterwards process and files are gone."""
        if absent := doctrees.missing():
            raise SkipTest(f"not installed: {' '.join(absent)}")
        with DocTrees.start() as trees:
            self.assertEqual(set(trees.urls), set(doctrees.TREES))
            answer = bfs.crawl(trees.urls["devref"], 2, "host")
            self.assertGreater(len(answer.levels[1]), 5)
            for url in trees.urls.values():
                self.assertEqual(bfs.crawl(url, 1).pages[url], Page(0, "fetched", 200))
        self.assertFalse(alive(trees.child.pid))
        self.assertFalse(trees.folder.exists())


class ProcessesTests(SynchronousTestCase):
    talks = "import json,sys,time; print('hm'); print(json.dumps({'ready': 'x', 'n': 1}), flush=True); "

    def test_ready(self) -> None:
        """``start`` returns once the child says that it is ready, whatever it says before."""
        child = start(["python", "-c", self.talks + "sys.stdin.read(); time.sleep(60)"], test=self)
        self.assertEqual(child.ready, {"ready": "x", "n": 1})
        self.assertTrue(alive(child.pid))

    def test_ends_early(self) -> None:
        """A child that ends before it is ready is an error that shows its last words."""
        with self.assertRaises(ChildFailed) as caught:
            start(["python", "-c", "import sys; sys.exit('no such luck')"])
        self.assertIn("no such luck", str(caught.exception))

    def test_deadline(self) -> None:
        """A child that says nothing is ended when the deadline passes."""
        with self.assertRaises(ChildFailed) as caught:
            start(["python", "-c", "import time; time.sleep(60)"], deadline_s=0.2)
        self.assertIn("not heard from", str(caught.exception))

    def test_stop(self) -> None:
        """``stop`` asks first; a child that does not listen is killed."""
        polite = start(["python", "-c", self.talks + "time.sleep(60)"])
        self.assertEqual(polite.stop(), -signal.SIGTERM)
        deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        child = start(["python", "-c", deaf + self.talks + "time.sleep(60)"])
        child.deadline_s = 0.2
        self.assertEqual(child.stop(), -signal.SIGKILL)
        self.assertFalse(alive(child.pid))

    def test_exit_code_and_output(self) -> None:
        """``wait`` gives the exit code; what the child said can be read afterwards."""
        child = Child(["python", "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])
        self.assertEqual((child.wait(), child.stdout, child.stderr), (3, "out", "err\n"))

    def test_killed_parent(self) -> None:
        """A child does not outlive a test process that is killed."""
        if sys.platform != "linux":
            raise SkipTest("only Linux tells a child that its parent died")
        parent = start(
            [
                "python",
                "-c",
                "import json, time; from tests.support.processes import Child; "
                "c = Child(['python', '-c', 'import time; print(1, flush=True); time.sleep(60)']); "
                "c.wait_line(lambda line: True); "
                "print(json.dumps({'ready': 'parent', 'child': c.pid}), flush=True); time.sleep(60)",
            ],
            test=self,
        )
        pid = parent.ready["child"]
        # A pidfd becomes readable when its process ends: waited for, not looked for.
        descriptor = os.pidfd_open(pid)
        self.addCleanup(os.close, descriptor)
        os.kill(parent.pid, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor)
        self.assertTrue(poll.poll(10_000), "the child goes on")


class PackagesTests(SynchronousTestCase):
    def test_missing(self) -> None:
        """What is missing is told by its package name, and nothing else is installed."""
        self.patch(packages, "PACKAGES", {"here": lambda: True, "absent": lambda: None})
        self.assertEqual(packages.missing(), ["absent"])

    def test_not_root(self) -> None:
        """Where packages may not be installed, the missing ones are only named."""
        self.patch(packages, "PACKAGES", {"absent": lambda: None})
        self.patch(os, "geteuid", lambda: 1000)
        self.assertEqual(packages.install_missing(), ["absent"])
