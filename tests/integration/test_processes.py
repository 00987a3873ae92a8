"""A farm of processes on RabbitMQ, Redis and PostgreSQL gives the answer that one process gives."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

from tests.support import bfs, doctrees
from tests.support.answer import Answer
from tests.support.bigsite import BigSite
from tests.support.commands import free_port
from tests.support.daemons import QUICK, DaemonTests, children_of, metric, pid_of, until, url_of
from tests.support.gated import GatedSite, tree
from tests.support.processes import Child
from tests.support.servers import PostgresServer, RabbitServer, RedisServer
from tests.support.site import Site

LONG = bool(os.environ.get("CRAWLFARM_TEST_LONG"))
GRAPHS = 40 if LONG else 6
AT_ONCE = 3


class FiveProcessesTests(DaemonTests):
    """Gateway, lockd, master and two workers, nothing going wrong."""

    def setUp(self) -> None:
        super().setUp()
        self.use_shared_servers()

    def submit(self, url: str, depth: int, name: str, *options: str) -> Child:
        return self.client("submit", url, "--depth", str(depth), "-o", name, *options)

    def result(self, client: Child, name: str) -> dict[str, object]:
        self.output_of(client)
        found: dict[str, object] = json.loads((self.folder / name).read_text())
        return found

    def test_exact_levels(self) -> None:
        """Generated graphs, a documentation tree, and a site big enough that the workers share it."""
        farm = self.five()
        for first in range(0, GRAPHS, AT_ONCE):
            self._graphs(range(first, min(GRAPHS, first + AT_ONCE)))
        self._shared([url_of(farm["worker-1"]), url_of(farm["worker-2"])])
        if not doctrees.missing():
            url = doctrees.DocTrees.start(test=self).urls["policy"]
            truth = bfs.crawl(url, 4, "host")
            self.assert_answer(self.result(self.submit(url, 4, "tree.json", "--scope", "host"), "tree.json"), truth)
        jobs = metric(url_of(farm["lockd"]), "crawlfarm_jobs")
        self.assertEqual(jobs, GRAPHS + 1 + (not doctrees.missing()))
        for name in ("gateway", "worker-1", "worker-2", "master", "lockd"):
            self.assertEqual(farm[name].stop(), 0, farm[name].stderr)
            self.assertTrue(farm[name].stderr.splitlines()[-1].startswith("stopping: "), farm[name].stderr)

    def _graphs(self, numbers: range) -> None:
        sites = {number: Site.of_graph(number, test=self) for number in numbers}
        clients = {}
        for number, site in sites.items():
            assert site.graph is not None
            options = ("--scope", site.graph.scope)
            clients[number] = self.submit(site.seed, site.graph.depth, f"{number}.json", *options)
        for number, site in sites.items():
            self.assert_answer(self.result(clients[number], f"{number}.json"), site.answer())
            site.stop()

    def _shared(self, workers: list[str]) -> None:
        big = BigSite(pages=900, fanout=8, delay_ms=10)
        site = Site.of_big(big, test=self)
        before = [metric(url, "crawlfarm_pages_total") for url in workers]
        truth = big.answer(site.origin, 30)
        self.assert_answer(self.result(self.submit(site.seed, 30, "big.json"), "big.json"), truth)
        fetched = [metric(url, "crawlfarm_pages_total") - b for url, b in zip(workers, before, strict=True)]
        self.assertGreaterEqual(min(fetched), len(truth.pages) / 3, fetched)
        self.assertEqual(set(site.stats()["counts"].values()), {1}, "no page was fetched twice")


class FaultTests(DaemonTests):
    """One daemon, or one server, is killed in the middle of each crawl."""

    def setUp(self) -> None:
        super().setUp()
        self.environ |= QUICK

    def crawl(self, hurt: Callable[[GatedSite], object], *, again: bool = False) -> None:
        """Crawl a site to its gate, hurt the farm, open the gate: the answer is as ever, once.

        :param again: the page behind the gate is asked for a second time first.
        """
        site = GatedSite(self, tree(), gated=["/gate"])
        client = self.client("submit", site.seed, "--depth", "5", "-o", "answer.jsonl")
        site.wait_asked("/gate")
        site.wait_asked("/c")
        hurt(site)
        if again:
            site.wait_asked("/gate", 2)
        site.open()
        self.output_of(client)
        self.assertEqual(client.stderr.count("Receipt"), 1, client.stderr)
        job = self.job_of(client)
        self.assert_same(site.answer(5), job)
        (self.folder / "answer.jsonl").unlink()

    def assert_same(self, truth: Answer, job: str) -> None:
        lines = (self.folder / "answer.jsonl").read_text().splitlines()
        self.assert_records([json.loads(line) for line in lines], truth)
        self.assert_answer(json.loads(self.output_of(self.client("resume", job, "-o", "-"))), truth)

    def test_daemons_killed(self) -> None:
        """kill -9 of each daemon under `up`: it is started again, the client comes back by itself."""
        self.use_shared_servers()
        self.environ["CRAWLFARM_GATEWAY_LISTEN"] = f"tcp:{free_port()}:interface=127.0.0.1"
        up = self.supervised("--workers", "2")

        def killed(kind: str) -> Callable[[GatedSite], object]:
            def kill(_: GatedSite) -> None:
                pid = pid_of(up, kind)
                os.kill(pid, signal.SIGKILL)
                until(lambda: pid not in children_of(up.pid), f"the {kind} goes on")

            return kill

        for kind in ("master", "gateway", "lockd"):
            self.crawl(killed(kind))

        def kill_workers(_: GatedSite) -> None:
            for pid, kind in children_of(up.pid).items():
                if kind == "worker":
                    os.kill(pid, signal.SIGKILL)

        self.crawl(kill_workers)
        self.assertEqual(up.stop(), 0, up.stderr)
        for kind in ("master", "gateway", "lockd", "worker-1", "worker-2"):
            self.assertRegex(up.stderr, rf"(?m)^{kind} *\| was ended by signal 9, and starts again in ")

    def test_servers_restarted(self) -> None:
        """kill -9 of Redis and PostgreSQL, a restart of RabbitMQ: waited for, and gone on."""
        redis = RedisServer.start(self, config={"appendfsync": "always"})
        postgres = PostgresServer.start(self)
        rabbit = RabbitServer.start(self)
        self.environ |= {
            "CRAWLFARM_BROKER_URL": rabbit.fresh_vhost(),
            "CRAWLFARM_FRONTIER_URL": f"{redis.url}/1",
            "CRAWLFARM_DATABASE_URL": postgres.fresh_database(),
            "CRAWLFARM_JOB_LEASE_S": "30",
        }
        farm = self.five()
        self.crawl(lambda _: redis.restart(kill=True), again=True)
        self.crawl(lambda _: postgres.restart(kill=True))
        self.crawl(lambda _: rabbit.restart())
        for name in ("gateway", "worker-1", "worker-2", "master", "lockd"):
            self.assertEqual(farm[name].stop(), 0, farm[name].stderr)
