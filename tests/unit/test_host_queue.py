"""The queue of one job: order by depth, turns by host, hosts set aside."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.host_queue import HostQueue
from tests.support.examples import examples


class HostQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.dead: set[tuple[str, int]] = set()
        self.full: set[str] = set()
        self.queue = HostQueue(lambda key, depth: (key, depth) not in self.dead)

    def push(self, *entries: str) -> None:
        """``x1@2``: the page ``x1`` of the host ``x`` at depth 2."""
        for entry in entries:
            key, _, depth = entry.partition("@")
            self.queue.push(key[0], int(depth), key)

    def pop(self) -> str | None:
        return self.queue.pop(lambda host: host not in self.full)

    def drain(self) -> str:
        return " ".join(iter(self.pop, None))  # type: ignore[arg-type]

    def test_empty(self) -> None:
        """There is nothing in an empty queue, before and after."""
        self.assertIsNone(self.pop())
        self.push("x1@0")
        self.assertEqual((self.pop(), self.pop()), ("x1", None))

    def test_by_depth(self) -> None:
        """Nearer pages first, whatever their hosts and whenever they came."""
        self.push("x1@2", "y1@1", "x2@0", "y2@2", "z1@3", "x3@1")
        self.assertEqual(self.drain(), "x2 y1 x3 y2 x1 z1")

    def test_first_in_first_out(self) -> None:
        """Pages of one host and depth keep their order."""
        self.push("x1@1", "x2@1", "x3@1")
        self.assertEqual(self.drain(), "x1 x2 x3")

    def test_hosts_take_turns(self) -> None:
        """Within a depth no host comes twice while another waits."""
        self.push("x1@1", "x2@1", "x3@1", "x4@1", "y1@1", "y2@1", "z1@1")
        self.assertEqual(self.drain(), "x1 y1 z1 x2 y2 x3 x4")

    def test_full_host_is_set_aside(self) -> None:
        """A host that may not be asked is asked about once, and not again until put back."""
        asked = []
        self.push("x1@0", "x2@0", "y1@1")

        def may_take(host: str) -> bool:
            asked.append(host)
            return host != "x"

        self.assertEqual((self.queue.pop(may_take), self.queue.pop(may_take)), ("y1", None))
        self.push("x3@0", "x4@5")
        self.assertIsNone(self.queue.pop(may_take))
        self.assertEqual(asked, ["x", "y"])
        self.queue.unblock("x")
        self.assertEqual(self.drain(), "x1 x2 x3 x4")

    def test_unblock_of_a_host_not_set_aside(self) -> None:
        """Changes nothing: nothing is handed out twice."""
        self.push("x1@0", "x2@0")
        self.queue.unblock("x")
        self.queue.unblock("unknown")
        self.assertEqual(self.drain(), "x1 x2")

    def test_dead_entries(self) -> None:
        """What has moved nearer or ended meanwhile is passed over, and holds nothing up."""
        self.push("x1@2", "x2@2", "x1@1", "y1@3", "y2@4")
        self.dead |= {("x1", 2), ("y1", 3)}
        self.assertEqual(self.drain(), "x1 x2 y2")

    def test_host_whose_entries_died(self) -> None:
        """Such a host is as good as new when it is found again, if set aside meanwhile too."""
        for aside in (False, True):
            self.push("x1@1")
            if aside:
                self.full.add("x")
                self.assertIsNone(self.pop())
                self.full.clear()
                self.queue.unblock("x")
            self.dead.add(("x1", 1))
            self.assertIsNone(self.pop())
            self.dead.clear()
            self.push("x2@1")
            self.assertEqual(self.drain(), "x2")

    @examples(300)
    @given(
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("push"), st.sampled_from("xyz"), st.integers(0, 3)),
                st.tuples(st.just("pop"), st.sampled_from(["", "x", "xy"])),
                st.tuples(st.just("unblock"), st.sampled_from("xyz")),
                st.tuples(st.just("lower"), st.integers(0, 30)),
                st.tuples(st.just("die"), st.integers(0, 30)),
            ),
            max_size=60,
        )
    )
    def test_like_a_plain_list(self, steps: list[tuple[Any, ...]]) -> None:
        """Whatever comes in whatever order: each live page once, nearest first, its host
        not set aside, in the order of its host."""
        live: dict[str, tuple[str, int, int]] = {}
        aside: set[str] = set()
        queue = HostQueue(lambda key, depth: key in live and live[key][1] == depth)
        ending = [*[("unblock", host) for host in "xyz"], *[("pop", "")] * 70]
        for clock, (what, *of) in enumerate([*steps, *ending]):
            if what == "push":
                key = f"{of[0]}{clock}"
                live[key] = (of[0], of[1], clock)
                queue.push(of[0], of[1], key)
            elif what == "unblock":
                aside.discard(of[0])
                queue.unblock(of[0])
            elif what in ("lower", "die") and live:
                key = sorted(live)[of[0] % len(live)]
                host, depth, _ = live.pop(key)
                if what == "lower" and depth:
                    live[key] = (host, depth - 1, clock)
                    queue.push(host, depth - 1, key)
            elif what == "pop":

                def may_take(host: str, full: str = of[0]) -> bool:
                    if host in full:
                        aside.add(host)
                    return host not in full

                got = queue.pop(may_take)
                for host, depth, _ in live.values():
                    if host not in aside:
                        self.assertIsNotNone(got, "a page was left")
                        self.assertGreaterEqual(depth, live[got][1], "a nearer page was left")  # type: ignore[index]
                if got is not None:
                    host, depth, since = live.pop(got)
                    self.assertNotIn(host, aside)
                    self.assertNotIn(host, of[0])
                    same = [v[2] for v in live.values() if v[:2] == (host, depth)]
                    self.assertTrue(all(since < other for other in same), "not first in, first out")
        self.assertEqual(live, {})
