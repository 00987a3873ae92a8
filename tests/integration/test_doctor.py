"""``crawlfarm doctor`` and ``crawlfarm definitions``."""

from __future__ import annotations

import json

from tests.support.daemons import DaemonTests
from tests.support.processes import Child
from tests.support.servers import PostgresServer, RedisServer, rabbitmq_server, redis_server, start_all


class DoctorTests(DaemonTests):
    def doctor(self, code: int, **environ: str) -> str:
        child: Child = self.start("doctor", **{"COLUMNS": "300", **environ})
        said = self.output_of(child, code)
        self.assertNotIn("hunter2", said + child.stderr)
        return said

    def test_all_is_well(self) -> None:
        """Everything set and running: exit 0, every part named, nothing to do."""
        start_all()
        postgres = PostgresServer.start(self, durable=True)
        self.environ |= {
            "CRAWLFARM_BROKER_URL": rabbitmq_server().fresh_vhost(self),
            "CRAWLFARM_FRONTIER_URL": redis_server().fresh(self),
            "CRAWLFARM_DATABASE_URL": postgres.fresh_database(),
        }
        self.supervised()
        said = self.doctor_with_gateway(0)
        for word in (
            "RabbitMQ",
            "Redis",
            "PostgreSQL 15",
            "append-only",
            "loaded (",
            "topology",
            "lock daemon",
            "ws://",
        ):
            self.assertIn(word, said)
        self.assertNotIn("problem", said)
        self.assertNotIn("note", said)

    def doctor_with_gateway(self, code: int) -> str:
        return self.output_of(self.start("doctor", "--gateway", self.gateway, COLUMNS="300"), code)

    def test_nothing_answers(self) -> None:
        """What is set and does not answer, each with its variable, what is wrong and what to do."""
        nobody = {
            "CRAWLFARM_BROKER_URL": "amqp://u:hunter2@127.0.0.1:1/",
            "CRAWLFARM_FRONTIER_URL": "redis://:hunter2@127.0.0.1:1",
            "CRAWLFARM_CACHE_URL": "redis://:hunter2@127.0.0.1:2",
            "CRAWLFARM_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d",
        }
        said = self.doctor(1, **nobody)
        for name in (*nobody, "CRAWLFARM_LOCKD"):
            self.assertRegex(said, rf"\({name}\)\n +problem +(reachable|answers) .*\n +→ start it")

    def test_findings(self) -> None:
        """A frontier without its append-only file and one that drops pages, a cache without a limit,
        wrong passwords, missing rights."""
        start_all()
        redis = RedisServer.start(
            self, appendonly=False, password="hunter2", config={"maxmemory-policy": "allkeys-lru"}
        )
        broker = rabbitmq_server().fresh_vhost(self)
        user, _, rest = broker.removeprefix("amqp://").partition(":")
        said = self.doctor(
            1,
            CRAWLFARM_FRONTIER_URL=f"{redis.url}/0",
            CRAWLFARM_CACHE_URL=f"{redis.url}/1",
            CRAWLFARM_BROKER_URL=f"amqp://{user}:hunter2@{rest.partition('@')[2]}",
        )
        self.assertRegex(said, r"problem +append-only +off.*\n +→ CONFIG SET appendonly yes")
        self.assertRegex(
            said, r"problem +eviction +allkeys-lru drops pages.*\n +→ CONFIG SET maxmemory-policy noeviction"
        )
        self.assertRegex(said, r"note +eviction +it grows")
        self.assertRegex(said, r"problem +reachable +CRAWLFARM_BROKER_URL.*refuses this user name or password")
        redis.call("ACL", "SETUSER", "reader", "on", ">hunter2", "~*", "&*", "+@read", "+@connection", "+info", "+time")
        server = rabbitmq_server()
        permit = getattr(server, "permit", None)
        if permit is not None:
            permit(broker, "nothing", ".*", ".*")
        url = redis.url.replace("redis://:", "redis://reader:")
        said = self.doctor(1, CRAWLFARM_FRONTIER_URL=url, CRAWLFARM_BROKER_URL=broker)
        self.assertRegex(said, r"CRAWLFARM_FRONTIER_URL(.|\n)*problem .*lacks a right.*\n +→ ACL SETUSER")
        if permit is not None:
            self.assertRegex(said, r"problem +rights .*no sufficient right on exchange 'crawlfarm.jobs'")

    def test_embedded(self) -> None:
        """Nothing set: what is embedded is said, and that no farm runs."""
        said = self.doctor(1, CRAWLFARM_GATEWAY_LISTEN="tcp:1:interface=127.0.0.1")
        self.assertEqual(said.count("embedded: `crawlfarm up`"), 3)
        self.assertRegex(said, r"gateway .*\n +problem +answers .*\n +→ start a farm with `crawlfarm up`")

    def test_definitions(self) -> None:
        """The topology, as an administrator may import it."""
        found = json.loads(self.output_of(self.start("definitions", "--vhost", "farm")))
        self.assertEqual(found["vhosts"], [{"name": "farm"}])
        self.assertEqual({queue["vhost"] for queue in found["queues"]}, {"farm"})
        self.assertIn("crawlfarm.jobs", {queue["name"] for queue in found["queues"]})
