"""A big regular site, made page by page while it is asked for: for benchmarks.

The pages are a tree with ``branches`` children each, so that the depth is known and
grows slowly; the other links go back, sideways and, now and then, far forward, which
makes shorter ways that a crawl out of order meets late.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from tests.support.answer import Answer, Page


@dataclass(frozen=True)
class BigSite:
    """
    :ivar pages: how many pages there are, numbered from 0, the seed.
    :ivar fanout: links on each page.
    :ivar slow_every: one page in so many is slow (0: none), by ``slow_ms``.
    :ivar size: about how many bytes a page has.
    """

    pages: int = 20_000
    fanout: int = 28
    branches: int = 4
    seed: int = 1
    slow_every: int = 0
    slow_ms: int = 1000
    delay_ms: int = 0
    size: int = 0

    def links(self, i: int) -> list[int]:
        """The pages that page ``i`` links to."""
        rng = random.Random(self.seed * 1_000_003 + i)
        links = [c for c in range(i * self.branches + 1, (i + 1) * self.branches + 1) if c < self.pages]
        while len(links) < self.fanout:
            draw = rng.random()
            if draw < 0.002:
                links.append(rng.randrange(self.pages))
            elif draw < 0.3:
                links.append(min(self.pages - 1, i + rng.randint(0, 40)))
            else:
                links.append(rng.randint(0, i))
        rng.shuffle(links)
        return links

    def path(self, i: int) -> str:
        """Where page ``i`` is on the server."""
        return f"/page/{i}"

    def delay_of(self, i: int) -> int:
        """Milliseconds the server waits before it sends page ``i``; the seed is never slow."""
        slow = bool(i and self.slow_every) and random.Random(self.seed * 7_919 + i).random() < 1 / self.slow_every
        return self.slow_ms if slow else self.delay_ms

    def body(self, i: int) -> bytes:
        """The page's HTML."""
        links = "\n".join(f'<li><a href="{self.path(n)}">page {n}</a></li>' for n in self.links(i))
        text = f"<!DOCTYPE html><html><head><title>page {i}</title></head><body><ul>{links}</ul>"
        filler = "<p>" + "crawl " * max(0, (self.size - len(text)) // 6) + "</p>"
        return f"{text}{filler}</body></html>".encode()

    def distances(self) -> dict[int, int]:
        """The link distance of every page from page 0."""
        distance = {0: 0}
        queue = deque([0])
        while queue:
            i = queue.popleft()
            for n in self.links(i):
                if n not in distance:
                    distance[n] = distance[i] + 1
                    queue.append(n)
        return distance

    def answer(self, origin: str, depth: int) -> Answer:
        """What a crawl from page 0 must find; ``origin`` is ``http://host:port``."""
        pages = {f"{origin}{self.path(i)}": Page(d, "fetched", 200) for i, d in self.distances().items() if d < depth}
        return Answer(f"{origin}{self.path(0)}", depth, pages)
