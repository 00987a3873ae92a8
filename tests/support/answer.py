"""What a crawl must answer: the form in which both sources of truth give it.

:mod:`tests.support.graphs` knows the answer because it made the site,
:mod:`tests.support.bfs` because it crawled it. Neither knows the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Page:
    """What became of one URL: how far it is from the seed, and its disposition.

    ``status`` is the HTTP status of the final response, 0 without one.
    """

    depth: int
    disposition: str
    status: int = 0


@dataclass(frozen=True)
class Answer:
    """Every URL found, by its canonical URL, for a crawl of ``depth`` levels from ``seed``."""

    seed: str
    depth: int
    pages: dict[str, Page] = field(repr=False)

    @property
    def levels(self) -> list[list[str]]:
        """``depth`` lists of the fetched pages, sorted; the first is the seed, always."""
        levels: list[list[str]] = [[] for _ in range(self.depth)]
        for url, page in self.pages.items():
            if page.disposition == "fetched" and page.depth > 0:
                levels[page.depth].append(url)
        return [[self.seed], *(sorted(level) for level in levels[1:])]

    @property
    def receipt(self) -> dict[str, object]:
        """``{found, fetched, failed: {reason: n}, skipped: {reason: n}, complete}``."""
        count: dict[str, Counter[str]] = {"fetched": Counter(), "failed": Counter(), "skipped": Counter()}
        for page in self.pages.values():
            kind, _, reason = page.disposition.partition(":")
            count[kind][reason] += 1
        return {
            "found": len(self.pages),
            "fetched": count["fetched"].total(),
            "failed": dict(sorted(count["failed"].items())),
            "skipped": dict(sorted(count["skipped"].items())),
            "complete": True,
        }

    def cut(self, depth: int) -> Answer:
        """The answer of a crawl of only ``depth`` levels."""
        return Answer(self.seed, depth, {url: page for url, page in self.pages.items() if page.depth < depth})

    def differences(self, other: Answer, most: int = 20) -> list[str]:
        """Where two answers differ, one line a URL; empty when they agree."""
        if (self.seed, self.depth) != (other.seed, other.depth):
            return [f"{self.seed} at depth {self.depth} != {other.seed} at depth {other.depth}"]
        lines = [
            f"{url}: {self.pages.get(url)} != {other.pages.get(url)}"
            for url in sorted({*self.pages, *other.pages})
            if self.pages.get(url) != other.pages.get(url)
        ]
        return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]
