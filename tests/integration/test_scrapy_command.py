"""``scrapy crawl``: the same crawl in Scrapy's own way."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import redis

from tests.support.commands import CommandTests
from tests.support.gated import GatedSite, tree
from tests.support.processes import ROOT, Child
from tests.support.servers import redis_server
from tests.support.site import Site

SCRAPY = str(Path(sys.executable).with_name("scrapy"))

OWN_SPIDER = """
from crawlfarm.spiders.base import LevelSpider


class Titles(LevelSpider):
    name = "titles"
    depth = 3

    def items(self, response):
        yield {"url": response.url, "depth": response.meta["depth"], "title": response.css("title::text").get()}


class Lists(Titles):
    name = "lists"

    async def items(self, response):
        return list(super().items(response))


class Single(Titles):
    name = "single"

    def items(self, response):
        return next(super().items(response))


class Silent(Titles):
    name = "silent"

    def items(self, response):
        return None


class Slow(Titles):
    name = "slow"

    async def items(self, response):
        for item in super().items(response):
            yield item
"""

STOCK_SPIDER = """
import scrapy


class Stock(scrapy.Spider):
    name = "stock"
    start_urls = ["http://127.0.0.1:1/"]
"""


class ScrapyTests(CommandTests):
    """In a checkout, with Scrapy's command."""

    def scrapy(self, *arguments: str, networks: str = "127.0.0.0/8,::1/128", cwd: Path = ROOT, **environ: str) -> Child:
        return self.start_other(
            [SCRAPY, *arguments],
            cwd=cwd,
            CRAWLFARM_ALLOW_NETWORKS=networks,
            PYTHONPATH=os.pathsep.join((str(ROOT), environ.pop("PYTHONPATH", ""))),
            **environ,
        )

    def items(self, name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def test_site_on_a_shared_frontier(self) -> None:
        """With a Redis named, as here or as scrapy-redis does, the job is in there while it runs."""
        site = Site.of_graph(12, test=self)
        assert site.graph is not None
        truth = site.answer()
        fetched = {url: page.depth for url, page in truth.pages.items() if page.disposition == "fetched"}
        arguments = ["-a", f"url={site.seed}", "-a", f"depth={site.graph.depth}", "-a", f"scope={site.graph.scope}"]
        for number, setting in enumerate(("CRAWLFARM_FRONTIER_URL", "REDIS_URL")):
            site.reset()
            url, name = redis_server().fresh(self), f"pages-{number}.jsonl"
            crawl = self.scrapy("crawl", "site", *arguments, "-O", str(self.folder / name), "-s", f"{setting}={url}")
            self.output_of(crawl)
            self.assertEqual({i["url"]: i["depth"] for i in self.items(name)}, fetched)
            with redis.Redis.from_url(url) as client:
                self.assertGreater(int(client.get("crawlfarm:leases") or 0), len(fetched))
                self.assertEqual([key for key in client.scan_iter() if key.count(b":") > 1], [])

    def test_site(self) -> None:
        """Items are the fetched pages' records, with their final depths; the log has the statistics."""
        site = Site.of_graph(12, test=self)
        assert site.graph is not None
        arguments = ["-a", f"url={site.seed}", "-a", f"depth={site.graph.depth}", "-a", f"scope={site.graph.scope}"]
        crawl = self.scrapy("crawl", "site", *arguments, "-O", str(self.folder / "pages.jsonl"))
        refused = self.scrapy(
            "crawl", "site", *arguments, "-O", str(self.folder / "none.jsonl"), "-s", "CRAWLFARM_ALLOW_NETWORKS="
        )
        self.assertEqual((self.output_of(crawl), self.output_of(refused)), ("", ""))
        truth = site.answer()
        fetched = {url: page for url, page in truth.pages.items() if page.disposition == "fetched"}
        items = self.items("pages.jsonl")
        self.assertEqual(len(items), len(fetched))
        found = {i["url"]: (i["depth"], i["disposition"], i["status"]) for i in items}
        self.assertEqual(found, {url: (p.depth, p.disposition, p.status) for url, p in fetched.items()})
        self.assertIn(f"'crawlfarm/fetched': {len(fetched)}", crawl.stderr)
        self.assertIn(f"'item_scraped_count': {len(fetched)}", crawl.stderr)
        self.assertIn("'finish_reason': 'finished'", crawl.stderr)
        self.assertNotIn("Traceback", crawl.stderr)
        self.assertIn("'crawlfarm/skipped:blocked_address': 1", refused.stderr)
        self.assertIn(f"the seed {site.seed} ended as skipped:blocked_address: it is not public; ", refused.stderr)
        self.assertEqual((self.folder / "none.jsonl").read_text(), "")

    def test_wrong_arguments(self) -> None:
        """One line, exit 2, nothing asked of the site."""
        wrong = {
            "site": "url: it is missing",
            "site -a url=http://example.invalid/": "depth: it is missing",
            "site -a url=http://example.invalid/ -a depth=0": "depth: '0' is out of range; 1 to 1000",
            "site -a url=ftp://example.invalid/ -a depth=2": "url: the scheme 'ftp'",
            "site -a url=http://example.invalid/ -a depth=2 -a max_pages=x": "max_pages",
            "site -a url=http://example.invalid/ -a depth=2 -a robots=obey": "robots: there is no such argument",
            "site -a url=http://example.invalid/ -a depth=2 -s CRAWLFARM_ALLOW_NETWORKS=x": "CRAWLFARM_ALLOW_NETWORKS",
            "nowhere": "there is no spider 'nowhere'",
        }
        crawls = [self.scrapy("crawl", *arguments.split()) for arguments in wrong]
        for crawl, says in zip(crawls, wrong.values(), strict=True):
            self.assertEqual(crawl.wait(), 2, crawl.stderr)
            self.assertRegex(crawl.stderr, r"^scrapy crawl: error: .*\n$")
            self.assertIn(says, crawl.stderr)

    def test_a_spider_of_ones_own(self) -> None:
        """Built on the base class: its items for every page; with ``crawl`` and ``runspider``."""
        site = GatedSite(self, tree())
        package = self.folder / "mine"
        package.mkdir()
        (package / "own_spiders.py").write_text(OWN_SPIDER)
        crawls = {
            "a.jsonl": ["crawl", "titles", "-a", f"url={site.seed}", "-s", "SPIDER_MODULES=own_spiders"],
            "b.jsonl": ["crawl", "slow", "-a", f"url={site.seed}", "-s", "SPIDER_MODULES=own_spiders"],
            "d.jsonl": ["crawl", "lists", "-a", f"url={site.seed}", "-s", "SPIDER_MODULES=own_spiders"],
            "e.jsonl": ["crawl", "single", "-a", f"url={site.seed}", "-s", "SPIDER_MODULES=own_spiders"],
            "c.jsonl": ["runspider", str(package / "own_spiders.py"), "-a", f"url={site.seed}", "-a", "depth=2"],
        }
        children = {
            name: self.scrapy(*arguments, "-O", str(self.folder / name), PYTHONPATH=str(package))
            for name, arguments in crawls.items()
        }
        for name, child in children.items():
            self.output_of(child)
            self.assertNotIn("Traceback", child.stderr)
            pages = site.answer(2 if name == "c.jsonl" else 3).pages
            self.assertEqual(
                sorted((str(i["url"]), i["depth"]) for i in self.items(name)),
                sorted((url, page.depth) for url, page in pages.items()),
            )
        silent = self.scrapy(
            "crawl", "silent", "-a", f"url={site.seed}", "-s", "SPIDER_MODULES=own_spiders", PYTHONPATH=str(package)
        )
        self.assertEqual(self.output_of(silent), "")
        self.assertNotIn("Traceback", silent.stderr)
        self.assertIn(
            {"url": site.seed, "depth": 0, "title": "/"},
            self.items("a.jsonl"),
        )
        wrong = self.scrapy("crawl", "titles", "-s", "SPIDER_MODULES=own_spiders", PYTHONPATH=str(package))
        self.assertEqual(wrong.wait(), 2)
        self.assertEqual(wrong.stderr.count("\n"), 1)

    def test_a_spider_of_scrapys_own_kind(self) -> None:
        """It has no job: refused in a line, or run on the scheduler it names itself."""
        (self.folder / "stock_spiders.py").write_text(STOCK_SPIDER)
        on = ["crawl", "stock", "-s", "SPIDER_MODULES=stock_spiders"]
        refused = self.scrapy(*on, PYTHONPATH=str(self.folder))
        alone = self.scrapy(
            *on, "-s", "SCHEDULER=scrapy.core.scheduler.Scheduler", "-s", "RETRY_ENABLED=0", PYTHONPATH=str(self.folder)
        )
        self.assertEqual(refused.wait(), 2)
        self.assertRegex(refused.stderr, r"^scrapy crawl: error: the spider 'stock' is not built on .*\n$")
        self.output_of(alone)
        self.assertIn("'finish_reason': 'finished'", alone.stderr)
