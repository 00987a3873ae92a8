"""A frontier whose every answer the test writes, for tests of what talks to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from twisted.internet.defer import Deferred, succeed

from crawlfarm.core.ports import DONE, Child, Exchanged, Finish, LeaseRef, PageLease
from crawlfarm.errors import Unavailable
from crawlfarm.wire.jobs import JobSpec

JOB = "job"
SPEC = JobSpec("http://site.example/", 3)


def lease(number: int, job: str = JOB) -> PageLease:
    url = f"http://site.example/{number}"
    return PageLease(LeaseRef(job, 1, number, url), url, 1, 1, SPEC, SPEC.url)


def done(page: PageLease, children: Sequence[Child] | None = ()) -> Finish:
    return Finish(page.ref, "fetched", children)


def nobody() -> None:
    """Who is woken when nobody watches."""


class ScriptedStore:
    """Answers an exchange when the test says so, and writes down every call.

    :ivar asked: the exchanges under way or answered: ``(finished, want)``.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[Finish], int]] = []
        self.open_calls: list[Deferred[Exchanged]] = []
        self.extended: list[list[LeaseRef]] = []
        self.released: list[LeaseRef] = []
        self.lost: set[LeaseRef] = set()
        self.away = False
        self.wake: Callable[[], None] = nobody

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Deferred[Exchanged]:
        self.asked.append((list(finished), want))
        d: Deferred[Exchanged] = Deferred()
        self.open_calls.append(d)
        return d

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[list[bool]]:
        self.extended.append(list(leases))
        if self.away:
            raise Unavailable("away")
        return succeed([ref not in self.lost for ref in leases])

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[int]:
        if self.away:
            raise Unavailable("away")
        self.released.extend(leases)
        return succeed(len(leases))

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.wake = wake

        def stop() -> None:
            self.wake = nobody

        return stop

    # --- what the test does -------------------------------------------------------------

    def answer(
        self, *leases: PageLease, verdicts: Sequence[str] | None = None, running: Collection[str] = (JOB,)
    ) -> None:
        """Answer the exchange under way; finishes are taken unless ``verdicts`` says otherwise."""
        finished = self.asked[-1][0]
        self.open_calls.pop().callback(
            Exchanged(list(verdicts or [DONE] * len(finished)), list(leases), frozenset(running))
        )

    def fail(self) -> None:
        self.open_calls.pop().errback(Unavailable("the store is away"))
