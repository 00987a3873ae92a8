"""Links a process leaves out because the frontier has them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.adapters.redis.known import KnownPages
from crawlfarm.core.levels import MAX_LINKERS
from crawlfarm.core.ports import Child, Finish, LeaseRef, PageLease
from crawlfarm.wire.jobs import JobSpec

LINK, SKIPPED = Child("http://h/link"), Child("http://h/skipped", skip="scope")


class KnownPagesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = KnownPages()
        self.known.floor("job", 5)
        self.number = 0

    def finish(self, depth: int) -> Finish:
        """A page leased at a depth, finished with both links."""
        self.number += 1
        ref = LeaseRef("job", 1, self.number, f"http://h/{self.number}")
        self.known.leased(PageLease(ref, ref.url, depth, 1, JobSpec("http://h/", 9), "http://h/"))
        return Finish(ref, "fetched", [LINK, SKIPPED])

    def hand_in(self, depth: int, *, applied: bool = True) -> list[Child]:
        """What is sent of it."""
        finish = self.finish(depth)
        sent = list(self.known.trim(finish) or ())
        self.known.settled(Finish(finish.ref, "fetched", sent), applied=applied)
        return sent

    def test_left_out_when_known(self) -> None:
        """A link goes out until as many linkers are told as may be; a skipped one, once."""
        self.assertEqual(self.hand_in(5), [LINK, SKIPPED])
        for _ in range(MAX_LINKERS - 1):
            self.assertEqual(self.hand_in(5), [LINK])
        self.assertEqual(self.hand_in(5), [])

    def test_a_refused_finish_told_nothing(self) -> None:
        """What was sent under a lost lease is sent again: the frontier took none of it."""
        for _ in range(MAX_LINKERS + 1):
            self.assertEqual(self.hand_in(5, applied=False), [LINK, SKIPPED])
        self.assertEqual(self.hand_in(5), [LINK, SKIPPED])

    def test_nearer(self) -> None:
        """A page nearer to the seed sends what is known from farther away."""
        for _ in range(MAX_LINKERS):
            self.hand_in(6)
        self.assertEqual(self.hand_in(6), [])
        self.assertEqual(self.hand_in(5), [LINK, SKIPPED])
        self.assertEqual(self.hand_in(5), [])

    def test_links_that_may_be_kept(self) -> None:
        """A page whose depth may still fall sends all of its links, every time."""
        for _ in range(MAX_LINKERS + 1):
            self.assertEqual(self.hand_in(7), [LINK, SKIPPED])
