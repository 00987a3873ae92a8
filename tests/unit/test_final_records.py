"""Records of a running job, each told once and only when nothing can change it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.levels import fold
from crawlfarm.core.ports import DONE, LINKS_WANTED, Child, Finish, PageLease
from crawlfarm.frontier.final import FinalRecords
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import PageRecord
from tests.support.examples import examples
from tests.support.sites import tangle


class FinalRecordsTests(SynchronousTestCase):
    @examples(150)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 8), st.integers(1, 7))
    def test_each_record_once_and_final(self, seed: int, size: int, depth: int, batch: int) -> None:
        """Whatever the order in which pages end and the log is read: what was told early is what
        the whole log says in the end, and nothing is missing or told twice."""
        rng = random.Random(seed)
        site = tangle(rng, size, 2)
        model = FrontierModel(host_concurrency=5)
        opened = model.open(0.0, "job", JobSpec(site.seed, depth), 1)
        assert opened.seeding is not None
        model.exchange(0.0, "w", [Finish(opened.seeding, "fetched", [Child(site.seed)])], 0)
        final, told, seen = FinalRecords(), list[PageRecord](), 0
        held: list[PageLease] = []
        running = True
        while running or seen < len(model._jobs["job"].log):
            if running:
                finished = [held.pop(rng.randrange(len(held))) for _ in range(min(len(held), rng.randint(0, 3)))]
                answer = model.exchange(0.0, "w", [site.finish(p) for p in finished], rng.randint(0, 4))
                for page, verdict in zip(finished, answer.verdicts, strict=True):
                    assert verdict in (DONE, LINKS_WANTED)
                    if verdict == LINKS_WANTED:
                        model.exchange(0.0, "w", [site.finish(page, read=True)], 0)
                held += answer.leases
                running = bool(model.exchange(0.0, "w", [], 0).running)
            piece = model.events(0.0, "job", seen, batch)
            assert piece is not None
            seen += len(piece.entries)
            last = piece.state != "running" and seen == len(model._jobs["job"].log)
            told += final.feed(piece, last=last)
        whole = fold(model._jobs["job"].log)
        self.assertEqual(len(told), len(whole))
        self.assertEqual({record.url: record for record in told}, whole)
