"""Any mix of servers and embedded stand-ins, in one process."""

from __future__ import annotations

import json

from tests.support.daemons import DaemonTests, children_of
from tests.support.gated import GatedSite, tree

SERVERS = ("CRAWLFARM_BROKER_URL", "CRAWLFARM_FRONTIER_URL", "CRAWLFARM_CACHE_URL", "CRAWLFARM_DATABASE_URL")


class MixTests(DaemonTests):
    def test_one_process(self) -> None:
        """`up` with some servers set is one process, and gives the same answer; the next one goes on."""
        self.use_shared_servers()
        urls = {name: self.environ.pop(name) for name in SERVERS}
        site = GatedSite(self, tree())
        mixes = [SERVERS[:1], SERVERS[1:3], SERVERS[3:], (SERVERS[0], SERVERS[1]), (SERVERS[0], SERVERS[3])]
        for depth, mix in enumerate(mixes, 2):
            up = self.up(**{name: urls[name] for name in mix}, CRAWLFARM_RUN_DIR=str(self.folder / f"run-{depth}"))
            self.assertEqual(children_of(up.pid), {})
            answer = json.loads(self.output_of(self.client("submit", site.seed, "--depth", str(depth), "-o", "-")))
            self.assert_answer(answer, site.answer(depth))
            self.assertEqual(up.stop(), 0, up.stderr)
            self.assertEqual(
                up.stderr, "stopping: what is in flight finishes, the rest is kept for the next `crawlfarm up`\n"
            )

    def test_run_is_on_its_own(self) -> None:
        """`run` uses no servers: its farm is gone in a moment, and they are shared."""
        nobody = {
            "CRAWLFARM_BROKER_URL": "amqp://127.0.0.1:1/",
            "CRAWLFARM_FRONTIER_URL": "redis://127.0.0.1:1",
            "CRAWLFARM_CACHE_URL": "redis://127.0.0.1:1",
            "CRAWLFARM_DATABASE_URL": "postgresql://127.0.0.1:1/d",
        }
        run = self.start("run", "--sample", "--depth", "2", "-o", "-", **nobody)
        self.assertEqual(len(json.loads(self.output_of(run))["levels"]), 2)
