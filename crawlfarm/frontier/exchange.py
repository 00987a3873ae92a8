"""Keeps one process in exchange with the frontier, in the background.

At most one call is under way; whatever is finished meanwhile goes with the next, so that
a slow store makes larger batches instead of a slower crawl. Nothing here knows Scrapy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import DONE, LATER, LINKS_WANTED, STALE, Child, Finish, FrontierStore, LeaseRef, PageLease

log = Logger()

_IDLE_POLL_S = 1.0
"""Even without a wake-up: expired leases of others come back by time alone."""
_HUMBLE_S = 0.05
"""A humble process asks for one page this often at most."""


class Pace:
    """How much one process takes, for somebody else to say; and how much it did.

    :ivar humble: it takes a page now and then, and leaves the others to those who fetch.
    :ivar finished: pages it has fetched, or tried to.
    """

    def __init__(self, *, humble: bool = False) -> None:
        self.finished = 0
        self._humble = humble
        self._told: Callable[[], None] = lambda: None

    @property
    def humble(self) -> bool:
        return self._humble

    @humble.setter
    def humble(self, humble: bool) -> None:
        changed, self._humble = humble != self._humble, humble
        if changed:
            self._told()

    def on_change(self, told: Callable[[], None]) -> None:
        """Who has to act on it."""
        self._told = told


class Exchange:
    """The leases of one process.

    :param reactor: its timers, and nothing else of it.
    :param worker: its name, as the frontier knows it.
    :param jobs: the only jobs to serve; ``None`` serves all.
    :param spiders: the only spiders whose jobs to serve; ``None`` for all.
    :param buffer: how many pages to hold ready.
    :param changed: called when there are pages to take, or nothing more will come.
    :param lost: called with leases that were taken and are not ours any more.
    """

    def __init__(
        self,
        reactor: Any,
        store: FrontierStore,
        worker: str,
        *,
        jobs: frozenset[str] | None,
        spiders: frozenset[str] | None,
        buffer: int,
        page_lease_s: float,
        changed: Callable[[], None],
        lost: Callable[[Sequence[LeaseRef]], None] = lambda refs: None,
        pace: Pace | None = None,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._worker = worker
        self._jobs = jobs
        self._spiders = spiders
        self._buffer = buffer
        self._changed = changed
        self._lost = lost
        self._pace = pace or Pace()
        self._pace.on_change(self._soon)
        self._asked_at = float("-inf")
        self._ready: deque[PageLease] = deque()
        self._held: dict[LeaseRef, Callable[[], Sequence[Child]] | None] = {}
        self._finished: list[Finish] = []
        self._postponed: list[Finish] = []
        self._busy = False
        self._dry = False
        self._woken_meanwhile = False
        self._stopping = False
        self._failures = 0
        self._backoff = Backoff()
        self._call: Any = None
        self._settled: list[Deferred[None]] = []
        self._unwatch: Callable[[], None] = lambda: None
        self._extending = LoopingCall(self._extend)
        self._extending.clock = reactor
        self._page_lease_s = page_lease_s
        self.over = False
        """No page will come any more: the jobs served have ended."""

    def start(self) -> Deferred[None]:
        """Begin; fires after the first answer of the store."""
        self._unwatch = self._store.watch(self._woken)
        self._extending.start(self._page_lease_s / 3, now=False).addErrback(
            lambda f: log.failure("extending page leases failed", failure=f)
        )
        first = self._when_settled()
        self._soon()
        return first

    def take(self) -> PageLease | None:
        """A page to fetch now, if one is ready."""
        lease = self._ready.popleft() if self._ready else None
        if len(self._ready) <= self._buffer // 2:
            self._soon()
        return lease

    def finish(self, finish: Finish, read_links: Callable[[], Sequence[Child]] | None = None) -> None:
        """Hand in a page.

        :param read_links: reads the links after all, if ``finish`` comes without.
        """
        if self.over:
            return  # the jobs served have ended, and this page with them
        self._held[finish.ref] = read_links
        self._finished.append(finish)
        self._soon()

    async def stop(self) -> None:
        """Hand in what is finished, give back what is not."""
        self._unwatch()
        self._stopping = True
        if self._extending.running:
            self._extending.stop()
        while self._busy or (self._finished and not self._failures):
            settled = self._when_settled()
            self._soon()
            await settled
        if self._call is not None and self._call.active():
            self._call.cancel()
        unfetched = [ref for ref in self._held if ref.url]
        self._held.clear()
        self._ready.clear()
        if unfetched:
            try:
                await self._store.release(self._worker, unfetched)
            except Exception as e:
                log.warn("pages could not be given back, their leases will expire: {error}", error=e)

    # --- the loop -----------------------------------------------------------------

    def _woken(self) -> None:
        self._dry = False
        # The answer under way may be older than this news.
        self._woken_meanwhile = self._busy
        self._soon()

    def _soon(self) -> None:
        """Exchange in the next turn if there is something to say or to ask."""
        if self._busy or self.over or self._failures:
            return  # the answer under way, or the next try, comes back here
        humble = self._pace.humble
        hungry = not (self._stopping or self._dry) and len(self._ready) <= (0 if humble else self._buffer // 2)
        if self._finished or (hungry and not humble):
            self._schedule(0.0)
        elif hungry:
            self._schedule(max(0.0, self._asked_at + _HUMBLE_S - self._reactor.seconds()))
        elif (self._dry and not self._stopping) or self._postponed:
            self._schedule(_IDLE_POLL_S)

    def _schedule(self, delay_s: float) -> None:
        if self._call is not None and self._call.active():
            if self._call.getTime() <= self._reactor.seconds() + delay_s:
                return
            self._call.cancel()
        self._call = self._reactor.callLater(delay_s, self._exchange)

    def _exchange(self) -> None:
        self._call = None
        if self._busy or self.over:
            return
        self._busy = True
        Deferred.fromCoroutine(self._one()).addErrback(
            lambda f: log.failure("an exchange with the frontier failed", failure=f)
        ).addBoth(self._done)

    def _done(self, _: Any) -> None:
        self._busy = False
        if self._failures:
            self._schedule(max(0.05, self._backoff.delay_s(self._failures)))
        else:
            self._soon()
        waiting, self._settled = self._settled, []
        for d in waiting:
            d.callback(None)

    def _when_settled(self) -> Deferred[None]:
        d: Deferred[None] = Deferred()
        self._settled.append(d)
        return d

    def _wanted(self) -> int:
        """How many pages to ask for now."""
        if self._stopping:
            return 0
        now = self._reactor.seconds()
        if not self._pace.humble:
            want = max(0, self._buffer - len(self._ready))
        else:
            want = int(not self._ready and now >= self._asked_at + _HUMBLE_S)
        if want:
            self._asked_at = now
        return want

    async def _one(self) -> None:
        finished = self._postponed + self._finished
        self._postponed, self._finished = [], []
        want = self._wanted()
        self._woken_meanwhile = False
        try:
            answer = await self._store.exchange(self._worker, finished, want, self._jobs, self._spiders)
        except Exception as e:
            # The same finishes go again: a repeated one is stale, a lost one is a lost page.
            self._finished = finished + self._finished
            self._failures += 1
            if self._failures == 1:
                log.warn("the frontier cannot be reached, trying again: {error}", error=e)
            return
        self._failures = 0
        for finish, verdict in zip(finished, answer.verdicts, strict=True):
            self._acknowledge(finish, verdict)
        for lease in answer.leases:
            self._held[lease.ref] = None
            self._ready.append(lease)
        ended = [ref for ref in self._held if ref.job not in answer.running]
        if ended:
            self._drop(ended)
        if want:
            self._dry = len(answer.leases) < want and not self._woken_meanwhile
        if self._jobs is not None and not answer.running:
            self.over = True
            self._finished.clear()
        if answer.leases or self.over:
            self._changed()

    def _acknowledge(self, finish: Finish, verdict: str) -> None:
        if verdict == LATER:
            self._postponed.append(finish)
            return
        read_links = self._held.pop(finish.ref, None)
        if verdict == DONE and finish.ref.url and not finish.disposition.startswith("skipped:"):
            self._pace.finished += 1
        if verdict == LINKS_WANTED:
            self.finish(_with_links(finish, read_links))
        elif verdict == STALE:
            log.info("page {url} of job {job} was taken over meanwhile", url=finish.ref.url, job=finish.ref.job)

    def _drop(self, refs: list[LeaseRef]) -> None:
        gone = set(refs)
        self._ready = deque(lease for lease in self._ready if lease.ref not in gone)
        for ref in gone:
            self._held.pop(ref, None)
        if refs:
            self._lost(refs)

    async def _extend_now(self) -> None:
        refs = [ref for ref in self._held if ref.url]
        if not refs:
            return
        try:
            kept = await self._store.extend(self._worker, refs)
        except Exception as e:
            log.warn("page leases could not be extended: {error}", error=e)
            return
        self._drop([ref for ref, keeps in zip(refs, kept, strict=True) if not keeps])

    def _extend(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._extend_now())


def _with_links(finish: Finish, read_links: Callable[[], Sequence[Child]] | None) -> Finish:
    """The same finish, its links read after all; one without links would be asked for them again."""
    try:
        return replace(finish, children=read_links() if read_links is not None else ())
    except Exception:
        log.failure("the links of {url} cannot be read", url=finish.ref.url)
        return Finish(finish.ref, "failed:error", own_network=finish.own_network)
