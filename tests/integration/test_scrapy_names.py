"""The private names of Scrapy that ``crawlfarm/frontier/engine.py`` leans on.

When a new version of Scrapy moves one, this says which, before a crawl goes wrong.
"""

from __future__ import annotations

import inspect
from typing import Any

from scrapy.core.downloader.handlers import http11
from scrapy.core.engine import ExecutionEngine, _Slot
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.utils import _download_handlers
from scrapy.utils.reactor import CallLaterOnce
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent

from crawlfarm.frontier.engine import HTTPHandlerOn, _AgentOn
from crawlfarm.spiders.site import SiteSpider

MOVED = "Scrapy has moved this; mend crawlfarm/frontier/engine.py: "


class PrivateNameTests(TestCase):
    def assert_parameters(self, function: Any, expected: list[str]) -> None:
        found = list(inspect.signature(function).parameters)
        self.assertEqual(found, expected, f"{MOVED}the parameters of {function.__qualname__} are {found}")

    def assert_has(self, what: Any, *names: str) -> None:
        for name in names:
            self.assertTrue(hasattr(what, name), f"{MOVED}{what!r} has no {name}")

    def test_the_engine_removes_requests(self) -> None:
        """``ExecutionEngine._remove_request(result, request)`` is called on the instance when a
        request has left the engine, after its output was handled."""
        self.assert_parameters(ExecutionEngine._remove_request, ["self", "_", "request"])
        source = inspect.getsource(ExecutionEngine._start_scheduled_request)
        handled, removed = source.find("_handle_downloader_output"), source.find("self._remove_request")
        self.assertTrue(0 < handled < removed, f"{MOVED}_remove_request does not follow _handle_downloader_output")

    def test_the_engine_can_be_woken(self) -> None:
        """``engine._slot.nextcall.schedule()``, unless ``_slot.closing``."""
        self.assertIn("_slot", inspect.getsource(ExecutionEngine.__init__), f"{MOVED}ExecutionEngine._slot")
        self.assert_parameters(_Slot.__init__, ["self", "close_if_idle", "nextcall", "scheduler"])
        slot = inspect.getsource(_Slot.__init__)
        for name in ("self.closing:", "self.nextcall:"):
            self.assertIn(name, slot, f"{MOVED}_Slot has no {name}")
        self.assert_has(CallLaterOnce, "schedule")

    def test_the_crawler_before_it_has_an_engine(self) -> None:
        """``Crawler._engine`` is ``None`` until then, ``Crawler.engine`` raises."""
        crawler = Crawler(SiteSpider, Settings())
        self.assert_has(crawler, "_engine")
        self.assertIsNone(crawler._engine, f"{MOVED}Crawler._engine")
        self.assertIn("running", inspect.getsource(ExecutionEngine.__init__), f"{MOVED}ExecutionEngine.running")

    def test_the_handler_makes_an_agent(self) -> None:
        """``_ScrapyAgent`` takes what the handler gives it and asks ``_get_agent`` for Twisted's."""
        agent = http11._ScrapyAgent
        self.assert_parameters(agent._get_agent, ["self", "request", "timeout"])
        self.assert_parameters(agent.download_request, ["self", "request"])
        self.assertIn("self._get_agent(", inspect.getsource(agent.download_request), f"{MOVED}_get_agent is not called")
        given = {"contextFactory", "pool", "maxsize", "warnsize", "fail_on_dataloss", "crawler", "tls_verbose_logging"}
        missing = given - set(inspect.signature(agent.__init__).parameters)
        self.assertEqual(missing, set(), f"{MOVED}_ScrapyAgent does not take {missing}")
        self.assertTrue(issubclass(_AgentOn, agent))
        self.assert_parameters(
            Agent.__init__, ["self", "reactor", "contextFactory", "connectTimeout", "bindAddress", "pool"]
        )

    def test_the_handler_has_what_the_agent_needs(self) -> None:
        """Its settings, by their private names."""
        crawler = Crawler(SiteSpider, Settings())
        crawler._apply_settings()
        handler = HTTPHandlerOn(crawler)
        names = ["_contextFactory", "_pool", "_default_maxsize", "_default_warnsize", "_fail_on_dataloss", "_crawler"]
        self.assert_has(handler, *names, "_tls_verbose_logging")
        self.assertTrue(inspect.iscoroutinefunction(http11.HTTP11DownloadHandler.download_request), MOVED)

    def test_exceptions_are_wrapped(self) -> None:
        """``wrap_twisted_exceptions`` turns Twisted's into those that spiders see."""
        self.assert_has(_download_handlers, "wrap_twisted_exceptions")
