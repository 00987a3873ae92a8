"""One job of the frontier: its pages, their depths, and how each of them ends.

A page waits (``QUEUED``), is with a worker (``LEASED``), or has its disposition
(``ENDED``). All ways to end go through one pair of steps, so that the counters, the log
and the end of the job cannot disagree.

**Depths are exact without a barrier.** Pages are handed out nearest first, but a shorter
way to a page may still turn up after the page was queued, leased or even fetched. Then its
depth is lowered (:meth:`Job.relax`) and so are, in turn, those of the pages it links to:
the links of a fetched page are kept for this as long as any outstanding page is near enough
to the seed to need them. A fetched page whose links nobody read, because it was on the last
level, is queued once more for its links alone (``refetch``); its disposition stays.

``floor`` is the lowest depth of any outstanding page. It never falls, and a page at
``floor + 1`` or nearer cannot move any more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from crawlfarm.core.frontier_page import ENDED, LEASED, QUEUED, Page
from crawlfarm.core.host_queue import HostQueue
from crawlfarm.core.levels import MAX_LINKERS
from crawlfarm.core.ports import RUNS_PER_TOKEN, Child, Finish
from crawlfarm.core.urls import canonical, host_of
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord

SEEDING_DEPTH = -1


class Job:
    """The state of one job; every method is one step of an atomic call.

    Invariants: each page has one disposition or is outstanding; ``outstanding`` counts
    the pages queued or leased, those in the cascade, and the seeding; the state leaves
    ``running`` exactly once, and only when ``outstanding`` is zero.
    """

    def __init__(self, job: str, spec: JobSpec, token: int) -> None:
        self.id = job
        self.spec = spec
        self.token = token
        self.run = token * RUNS_PER_TOKEN
        self.state = "running"
        self.base = canonical(spec.url)
        self.pages: dict[str, Page] = {}
        self.queue = HostQueue(self._waits)
        self.log: list[Entry] = []
        self.counts: dict[str, int] = {}
        self.queued = 0
        self.leased = 0
        self.fetching = 0
        self.seeding_lease = 0
        self.seeding = True
        self.cutting = ""
        self.flawed = False
        self.floor = SEEDING_DEPTH
        self._outstanding_at: dict[int, int] = {SEEDING_DEPTH: 1}
        self._cascade: deque[str] = deque()
        self._cascading: set[str] = set()
        self._kept_at: dict[int, set[str]] = {}

    # --- what others may ask ---------------------------------------------------

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def outstanding(self) -> int:
        return sum(self._outstanding_at.values())

    @property
    def cascading(self) -> int:
        return len(self._cascading)

    @property
    def last_level(self) -> int:
        return self.spec.depth - 1

    @property
    def final_depth(self) -> int:
        return self.floor + 1 if self.running else self.spec.depth

    @property
    def may_lease(self) -> bool:
        """Whether another page may be fetched under ``max_pages``."""
        most = self.spec.max_pages
        return most is None or self.counts.get("fetched", 0) + self.fetching < most

    def _waits(self, url: str, depth: int) -> bool:
        page = self.pages[url]
        return page.state == QUEUED and page.depth == depth

    # --- the life of a page ----------------------------------------------------

    def seed(self, children: Sequence[Child]) -> None:
        """The spider's start is through: these are the pages at depth 0."""
        for child in children:
            self._meet(child, 0, "")
        self.seeding = False
        self._leave(SEEDING_DEPTH)

    def lease(self, page: Page, lease: int, expires: float) -> None:
        page.state = LEASED
        page.lease = lease
        page.expires = expires
        self.queued -= 1
        self.leased += 1
        self.fetching += not page.refetch

    def give_back(self, page: Page) -> None:
        """A leased page waits again, or has waited long enough where nothing more is fetched."""
        if self.cutting:
            self.give_up(page, f"skipped:{self.cutting}")
            return
        self._unlease(page)
        page.state = QUEUED
        self.queued += 1
        self.queue.push(page.host, page.depth, page.url)

    def wants_links(self, page: Page, finish: Finish) -> bool:
        """Whether a finish without links came for a page that has left the last level."""
        return finish.children is None and finish.disposition == "fetched" and page.depth < self.last_level

    def finish(self, page: Page, finish: Finish) -> None:
        """A leased page is done: its disposition, then its links."""
        if page.depth == 0 and not page.refetch and finish.final_url:
            self.base = canonical(finish.final_url)
        depth = page.depth
        record = PageRecord(
            url=page.url,
            depth=depth,
            disposition=finish.disposition,
            status=finish.status,
            final_url=finish.final_url,
            title=finish.title,
            content_type=finish.content_type,
            bytes=finish.bytes,
            parent=page.parent,
            elapsed_ms=finish.elapsed_ms,
        )
        if page.refetch and finish.disposition != "fetched":
            # Its disposition stands, but the pages it links to may be missing.
            self.flawed = True
        self._dispose_of(page, record)
        if finish.disposition == "fetched":
            page.links = None if finish.children is None else tuple(finish.children)
        # Its children become outstanding before it stops to be: the end cannot come early.
        if depth < self.last_level:
            for child in finish.children or ():
                self._meet(child, depth + 1, page.url)
        self._close(page)

    def give_up(self, page: Page, reason: str) -> None:
        """End a page that nobody fetched, as ``failed`` or ``skipped``: ``reason`` is both."""
        if page.refetch:
            # Its disposition stands, but the pages it links to may be missing.
            self.flawed = True
        self._dispose_of(page, self._record(page, reason))
        self._close(page)

    def cut(self, reason: str) -> None:
        """Fetch nothing more that is not out already; what waits is ``skipped:<reason>``."""
        if not self.cutting:
            self.cutting = reason
            self._give_up_all(f"skipped:{reason}", QUEUED)

    def end(self, reason: str) -> None:
        """End the job now, whatever is out: it has not seen everything."""
        self.cutting = reason
        self.flawed = True
        self._give_up_all(f"skipped:{reason}", QUEUED, LEASED)
        for url in self._cascading:
            page = self.pages[url]
            page.links = ()
            self._count(page.depth, -1)
        self._cascade.clear()
        self._cascading.clear()
        if self.seeding:
            self.seeding = False
            self._count(SEEDING_DEPTH, -1)
        self.state = "cancelled" if reason == "cancelled" else "done"
        self._free()

    def cascade(self, budget: int) -> None:
        """Carry lowered depths on to the pages that lowered pages link to.

        :param budget: about how many links to look at in this call.
        """
        while self._cascade and budget > 0:
            url = self._cascade.popleft()
            self._cascading.discard(url)
            page = self.pages[url]
            depth = page.depth
            budget -= 1 + len(page.links or ())
            if depth < self.last_level:
                for link in page.links or ():
                    self._meet(link, depth + 1, url)
            self._keep_links(page)
            self._leave(depth)

    def finish_if_done(self) -> None:
        if self.running and not self.outstanding:
            self.state = "done"
            self._free()

    def audit(self) -> list[str]:
        """Where the counters disagree with the pages, in words."""
        pages = list(self.pages.values())
        out = [p for p in pages if p.state != ENDED or p.url in self._cascading]
        outstanding = Counter(p.depth for p in out)
        outstanding[SEEDING_DEPTH] += self.seeding
        checks: dict[str, tuple[object, object]] = {
            "queued pages": (self.queued, sum(p.state == QUEUED for p in pages)),
            "leased pages": (self.leased, sum(p.state == LEASED for p in pages)),
            "pages being fetched": (self.fetching, sum(p.state == LEASED and not p.refetch for p in pages)),
            "dispositions": (+Counter(self.counts), Counter(p.disposition for p in pages if p.disposition)),
            "dispositions in the log": (
                sum(isinstance(entry, Ended) for entry in self.log),
                sum(bool(p.disposition) for p in pages),
            ),
            "outstanding by depth": (self._outstanding_at, dict(+outstanding)),
            "ended pages without a disposition": (0, sum(p.state == ENDED and not p.disposition for p in pages)),
        }
        wrong = [f"{what}: counted {has}, there are {are}" for what, (has, are) in checks.items() if has != are]
        if not self.running and self.outstanding:
            wrong.append(f"ended with {self.outstanding} outstanding")
        return wrong

    # --- depths ------------------------------------------------------------------

    def _meet(self, child: Child, depth: int, parent: str) -> None:
        """A link leads to ``child``: find it, or find that it is nearer than thought."""
        page = self.pages.get(child.url)
        if page is None:
            page = Page(child.url, child.spelling, host_of(child.url), depth, parent)
            self.pages[child.url] = page
            skip = child.skip or self.cutting
            if skip:
                page.state = ENDED
                self._dispose(page, self._record(page, f"skipped:{skip}"))
                return
            self._count(depth, 1)
            self.queued += 1
            self.queue.push(page.host, depth, page.url)
            return
        self._note_linker(page, parent)
        if depth < page.depth:
            self._lower(page, depth, parent)

    def _lower(self, page: Page, depth: int, parent: str) -> None:
        was, page.depth, page.parent = page.depth, depth, parent
        if page.disposition:
            self.log.append(Moved(len(self.log) + 1, page.url, depth, parent))
        if page.state == ENDED:
            if page.url in self._cascading:
                self._count(was, -1)
                self._count(depth, 1)
            elif page.disposition == "fetched":
                self._reopen(page, was)
            return
        self._count(was, -1)
        self._count(depth, 1)
        if page.state == QUEUED:
            self.queue.push(page.host, depth, page.url)

    def _reopen(self, page: Page, was: int) -> None:
        """A fetched page came nearer: its links are due, from memory or once more from the site."""
        if page.links:
            self._cascade.append(page.url)
            self._cascading.add(page.url)
            self._count(page.depth, 1)
        elif page.links is None and was == self.last_level:
            if self.cutting:
                self.flawed = True
                return
            page.state = QUEUED
            page.refetch = True
            page.losses = 0
            self.queued += 1
            self._count(page.depth, 1)
            self.queue.push(page.host, page.depth, page.url)

    def _keep_links(self, page: Page) -> None:
        """Keep a fetched page's links only while its depth may still fall."""
        if page.links:
            if page.depth > self.floor + 1:
                self._kept_at.setdefault(page.depth, set()).add(page.url)
            else:
                page.links = ()

    def _free(self) -> None:
        """The floor has risen (or the job has ended): drop links nobody can need."""
        final = self.final_depth
        for depth in [d for d in self._kept_at if d <= final or not self.running]:
            for url in self._kept_at.pop(depth):
                if url not in self._cascading:
                    self.pages[url].links = ()

    # --- bookkeeping ---------------------------------------------------------------

    def _give_up_all(self, disposition: str, *states: str) -> None:
        for page in sorted((p for p in self.pages.values() if p.state in states), key=lambda p: p.url):
            self.give_up(page, disposition)

    def _dispose_of(self, page: Page, record: PageRecord) -> None:
        """First half of the one way in which an outstanding page ends: it gets its disposition."""
        if page.state == LEASED:
            self._unlease(page)
        else:
            self.queued -= 1
        page.state = ENDED
        if page.refetch:
            page.refetch = False
        else:
            self._dispose(page, record)

    def _close(self, page: Page) -> None:
        """Second half: it stops to be outstanding."""
        self._keep_links(page)
        self._leave(page.depth)
        if self.spec.max_pages is not None and self.counts.get("fetched", 0) >= self.spec.max_pages:
            self.cut("page_limit")

    def _dispose(self, page: Page, record: PageRecord) -> None:
        page.disposition = record.disposition
        page.broken = record.broken
        if page.broken:
            record.linked_from = page.linkers[:]
        else:
            page.linkers = []
        self.counts[record.disposition] = self.counts.get(record.disposition, 0) + 1
        self.log.append(Ended(len(self.log) + 1, record))

    def _note_linker(self, page: Page, parent: str) -> None:
        if not parent or (page.disposition and not page.broken):
            return
        if len(page.linkers) < MAX_LINKERS and parent not in page.linkers:
            page.linkers.append(parent)
            if page.disposition:
                self.log.append(Linked(len(self.log) + 1, page.url, parent))

    def _record(self, page: Page, disposition: str) -> PageRecord:
        return PageRecord(url=page.url, depth=page.depth, disposition=disposition, parent=page.parent)

    def _unlease(self, page: Page) -> None:
        page.lease = 0
        self.leased -= 1
        self.fetching -= not page.refetch

    def _leave(self, depth: int) -> None:
        """One outstanding thing at ``depth`` is settled."""
        self._count(depth, -1)
        floor = min(self._outstanding_at, default=self.spec.depth)
        if floor > self.floor:
            self.floor = floor
            self._free()

    def _count(self, depth: int, change: int) -> None:
        count = self._outstanding_at.get(depth, 0) + change
        if count:
            self._outstanding_at[depth] = count
        else:
            del self._outstanding_at[depth]
