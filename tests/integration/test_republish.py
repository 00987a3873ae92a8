"""An accepted job is a row: whatever becomes of the queue, a master hears of it."""

from __future__ import annotations

import json

from tests.support.daemons import QUICK, DaemonTests
from tests.support.servers import PostgresServer, RabbitServer, RedisServer
from tests.support.site import Site


class RepublishTests(DaemonTests):
    def test_queue_deleted(self) -> None:
        """A queue deleted with an accepted job in it costs that job time, nothing else."""
        broker = RabbitServer.start(self)
        url = broker.fresh_vhost(self)
        self.environ |= {
            **QUICK,
            "CRAWLFARM_BROKER_URL": url,
            "CRAWLFARM_FRONTIER_URL": RedisServer.start(self).url,
            "CRAWLFARM_DATABASE_URL": PostgresServer.start(self).fresh_database(self),
        }
        site = Site.of_graph(5, test=self)
        assert site.graph is not None
        gateway = [self.daemon(kind) for kind in ("lockd", "gateway")][1]
        gateway.wait_ready()
        self.gateway = gateway.ready["endpoints"][0]
        job = self.submit_detached(site.seed, site.graph.depth)
        self.assertEqual(broker.messages(url, "crawlfarm.jobs"), 1)
        broker.delete_queue(url, "crawlfarm.jobs")
        self.daemon("master").wait_ready()
        self.output_of(self.client("resume", job, "-o", "result.json"))
        result = json.loads((self.folder / "result.json").read_text())
        self.assert_answer(result, site.answer(scope="any"))

    def test_broker_restarted(self) -> None:
        """A submit while RabbitMQ is away goes through when it is back."""
        broker = RabbitServer.start(self)
        self.environ |= {
            **QUICK,
            "CRAWLFARM_BROKER_URL": broker.fresh_vhost(self),
            "CRAWLFARM_FRONTIER_URL": RedisServer.start(self).url,
            "CRAWLFARM_DATABASE_URL": PostgresServer.start(self).fresh_database(self),
        }
        site = Site.of_graph(5, test=self)
        assert site.graph is not None
        self.five()
        broker.kill()
        client = self.client("submit", site.seed, "--depth", str(site.graph.depth), "-o", "result.json")
        broker.up()
        self.output_of(client)
        result = json.loads((self.folder / "result.json").read_text())
        self.assert_answer(result, site.answer(scope="any"))
