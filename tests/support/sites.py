"""Sites in memory: what a worker would find on them, and their plain breadth-first crawl.

The crawl here shares no code with the frontier: a queue, a set, one page at a time.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from crawlfarm.core.ports import Child, Finish, PageLease


@dataclass(frozen=True)
class SitePage:
    """One page of a site.

    :ivar links: the URLs it links to, once each.
    :ivar html: it may have links; a page that is not says so with ``children=()``.
    :ivar slow: pages on short ways that are slow bring those ways late.
    """

    links: tuple[str, ...] = ()
    disposition: str = "fetched"
    status: int = 200
    html: bool = True
    slow: bool = False


@dataclass
class Site:
    """Pages by URL. ``skips`` says of a URL why it is not to be fetched."""

    seed: str
    pages: dict[str, SitePage]
    skips: dict[str, str] = field(default_factory=dict)

    def children(self, url: str) -> tuple[Child, ...]:
        """The links a worker finds on a page it has fetched."""
        page = self.pages[url]
        if page.disposition != "fetched" or not page.html:
            return ()
        return tuple(Child(link, skip=self.skips.get(link, "")) for link in page.links)

    def finish(self, lease: PageLease, *, read: bool = False) -> Finish:
        """What a worker says of a page: on the last level its links are not read.

        :param read: it reads them all the same.
        """
        page = self.pages[lease.ref.url]
        unread = page.disposition == "fetched" and page.html and lease.depth >= lease.spec.depth - 1 and not read
        return Finish(
            lease.ref,
            page.disposition,
            None if unread else self.children(lease.ref.url),
            status=page.status,
            title=f"lease {lease.ref.lease}",
        )

    def crawl(self, depth: int) -> dict[str, tuple[int, str]]:
        """Every URL within ``depth`` levels: its distance and its disposition."""
        found = {self.seed: (0, self._disposition(self.seed))}
        queue = deque([self.seed])
        while queue:
            url = queue.popleft()
            distance, disposition = found[url]
            if disposition != "fetched" or not self.pages[url].html or distance + 1 >= depth:
                continue
            for link in self.pages[url].links:
                if link not in found:
                    found[link] = (distance + 1, self._disposition(link))
                    queue.append(link)
        return found

    def linkers(self, depth: int, url: str) -> set[str]:
        """The pages that crawl reads and that link to ``url``."""
        return {
            other
            for other, (distance, disposition) in self.crawl(depth).items()
            if disposition == "fetched" and distance + 1 < depth and url in self._read(other)
        }

    def _read(self, url: str) -> tuple[str, ...]:
        return self.pages[url].links if self.pages[url].html else ()

    def _disposition(self, url: str) -> str:
        skip = self.skips.get(url)
        return f"skipped:{skip}" if skip else self.pages[url].disposition


def levels_of(found: dict[str, tuple[int, str]], depth: int, seed: str) -> list[list[str]]:
    """The levels such a crawl answers."""
    levels = [
        sorted(url for url, (distance, disposition) in found.items() if (distance, disposition) == (level, "fetched"))
        for level in range(depth)
    ]
    return [[seed], *levels[1:]]


def receipt_of(found: dict[str, tuple[int, str]]) -> dict[str, object]:
    """The receipt of such a crawl, as plain values."""
    counts = Counter(disposition for _, disposition in found.values())
    kinds: dict[str, dict[str, int]] = {"failed": {}, "skipped": {}}
    for disposition, count in counts.items():
        kind, _, reason = disposition.partition(":")
        if reason:
            kinds[kind][reason] = count
    return {"found": len(found), "fetched": counts["fetched"], **kinds, "complete": True}


def tangle(rng: random.Random, size: int, hosts: int = 1) -> Site:
    """A random site: chains with short cuts, loops, self links, and all that can go wrong."""
    hosts = max(1, min(hosts, size))
    urls = [f"http://h{i % hosts}.test/{i}" for i in range(size)]
    degree, reach = rng.choice([(1.5, 3), (2.0, 4), (2.5, 6), (2.0, 12), (5.0, 40)])
    trouble = rng.choice([0.0, 0.15])
    pages = {}
    for i, url in enumerate(urls):
        links = [
            urls[min(size - 1, i + rng.randint(1, reach))]
            for _ in range(max(3 - i, int(rng.expovariate(1 / degree) + 0.9)))
        ]
        if rng.random() < 0.4:
            links.append(rng.choice(urls))
        page = SitePage(tuple(dict.fromkeys(links)), slow=rng.random() < 0.2)
        if i and rng.random() < trouble:
            page = rng.choice(
                [
                    SitePage(disposition="failed:timeout", status=0),
                    SitePage(disposition="failed:dns", status=0),
                    SitePage(disposition="skipped:robots", status=0),
                    SitePage(page.links, status=404, html=rng.random() < 0.5),
                    SitePage(html=False),
                ]
            )
        pages[url] = page
    skips = {url: rng.choice(["scope", "extension"]) for url in urls[1:] if rng.random() < trouble / 2}
    return Site(urls[0], pages, skips)


def site_of(links: dict[str, str], **broken: SitePage) -> Site:
    """A site from short names: ``{"a": "b c", "b": ""}``; the first is the seed."""
    names = dict.fromkeys(links)
    for targets in links.values():
        names.update(dict.fromkeys(targets.split()))
    pages = {u(n): broken.get(n, SitePage(tuple(u(t) for t in links.get(n, "").split()))) for n in names}
    return Site(u(next(iter(links))), pages)


def u(name: str) -> str:
    """The URL a short name stands for: ``b`` is on the usual host, ``b@x`` on ``x``."""
    page, _, host = name.partition("@")
    return f"http://{host or 'site'}.test/{page}"
