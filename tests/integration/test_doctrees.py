"""Exact levels and receipts on documentation that nobody here wrote, at depth 1 to 5."""

from __future__ import annotations

import os
from typing import ClassVar
from unittest import SkipTest

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from crawlfarm.wire.jobs import JobSpec
from tests.support import bfs, doctrees
from tests.support.answer import Answer
from tests.support.crawling import crawl

LONG = bool(os.environ.get("CRAWLFARM_TEST_LONG"))
DEEPEST = 5
CONSUMERS = (1, 2, 5)


class DocTreeTests(TestCase):
    """A private nginx serves each tree; an independent crawl, one page at a time, says what is there."""

    timeout = 1200
    _truth: ClassVar[dict[str, Answer]] = {}

    def setUp(self) -> None:
        missing = doctrees.missing()
        if missing:
            raise SkipTest(f"not installed: {' '.join(missing)}")
        self.trees = doctrees.DocTrees.start(test=self)

    async def test_policy(self) -> None:
        """``debian-policy``: each depth with 1, 2 and 5 consumers."""
        await self._every_depth("policy", CONSUMERS)

    async def test_developers_reference(self) -> None:
        """``developers-reference``: each depth with 1, 2 and 5 consumers."""
        await self._every_depth("devref", CONSUMERS)

    async def test_python(self) -> None:
        """``python3-doc``: each depth, and depth 3 with 1, 2 and 5 consumers; all of them in the long version."""
        await self._every_depth("python", CONSUMERS if LONG else (2,))
        if not LONG:
            await self._compare("python", 3, (1, 5))

    async def _every_depth(self, name: str, consumers: tuple[int, ...]) -> None:
        for depth in range(1, DEEPEST + 1):
            await self._compare(name, depth, consumers)

    async def _compare(self, name: str, depth: int, consumers: tuple[int, ...]) -> None:
        url = self.trees.urls[name]
        whole = await deferToThread(bfs.crawl, url, DEEPEST, "host") if name not in self._truth else self._truth[name]
        self._truth[name] = whole
        truth = whole.cut(depth)
        for count in consumers:
            found = await crawl(JobSpec(url, depth, scope="host"), consumers=count)
            which = f"{name}, depth {depth}, {count} consumers"
            self.assertEqual(truth.differences(found.answer), [], which)
            self.assertEqual(found.levels, truth.levels, which)
            receipt = {field: getattr(found.receipt, field) for field in found.receipt.__struct_fields__}
            self.assertEqual(receipt, truth.receipt, which)
