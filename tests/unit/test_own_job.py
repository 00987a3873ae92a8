"""Which Redis a crawl that Scrapy itself started joins."""

from __future__ import annotations

from scrapy.settings import Settings
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.errors import ConfigError
from crawlfarm.frontier.own_job import frontier_urls


class FrontierUrlsTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Our name first, then those that users of scrapy-redis know; none is no Redis."""
        ours, theirs = "redis://a:1/0,redis://b:2/0", "redis://c:3/4"
        for settings, urls in (
            ({}, ()),
            ({"CRAWLFARM_FRONTIER_URL": ""}, ()),
            ({"CRAWLFARM_FRONTIER_URL": ours, "REDIS_URL": theirs}, ("redis://a:1/0", "redis://b:2/0")),
            ({"REDIS_URL": theirs, "REDIS_HOST": "d"}, (theirs,)),
            ({"REDIS_HOST": "d", "REDIS_PORT": "7"}, ("redis://d:7",)),
            ({"REDIS_HOST": "d"}, ("redis://d:6379",)),
        ):
            self.assertEqual(frontier_urls(Settings(settings)), urls, settings)

    def test_refused(self) -> None:
        """A URL that cannot be one is refused by the name of its setting, without its password."""
        with self.assertRaises(ConfigError) as caught:
            frontier_urls(Settings({"REDIS_URL": "http://user:word@host/"}))
        self.assertIn("REDIS_URL", str(caught.exception))
        self.assertNotIn("word", str(caught.exception))
