"""What is declared at RabbitMQ, where it is, and what its refusals mean."""

from __future__ import annotations

import json
import subprocess
import sys

from pika import exceptions
from twisted.internet import defer, error
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.adapters.rabbit import topology
from crawlfarm.adapters.rabbit.broker import HEARTBEAT_S, VARIABLE, Broker, blame
from crawlfarm.adapters.rabbit.topology import Names, definitions, farm, listener
from crawlfarm.errors import ConfigError, Unavailable
from tests.support.processes import ROOT

URL = "amqp://who:hush@queue.example:5673/a%2Fb"


class TopologyTests(SynchronousTestCase):
    def test_jobs_survive(self) -> None:
        """Jobs wait in a durable quorum queue with no limit; what cannot be read goes to another."""
        jobs, dead = farm(Names()).queues
        self.assertEqual(jobs.name, "crawlfarm.jobs")
        self.assertTrue(jobs.durable and dead.durable)
        self.assertEqual(jobs.arguments, {"x-queue-type": "quorum", "x-dead-letter-exchange": "crawlfarm.dead"})
        self.assertEqual(dead.arguments, {"x-queue-type": "quorum", "x-max-length": topology.DEAD_KEPT})

    def test_delivery_limit(self) -> None:
        """From version 4 on, the limit a quorum queue then has is lifted; before, nothing is said of it."""
        self.assertEqual(farm(Names(), (4, 0, 1)).queues[0].arguments["x-delivery-limit"], -1)
        self.assertNotIn("x-delivery-limit", farm(Names(), (3, 13, 7)).queues[0].arguments)

    def test_everything_is_bound(self) -> None:
        """Bindings name exchanges and queues that are there, and every queue has one."""
        for names in (Names(), Names("other")):
            shared, own = farm(names), listener(names, "g1")
            exchanges = {exchange.name for exchange in shared.exchanges}
            queues = {queue.name for queue in (*shared.queues, *own.queues)}
            bindings = (*shared.bindings, *own.bindings)
            self.assertEqual({binding.queue for binding in bindings}, queues)
            self.assertEqual({binding.exchange for binding in bindings}, exchanges)
            for name in exchanges | queues:
                self.assertTrue(name.startswith(f"{names.prefix}."), name)

    def test_listeners_leave_nothing(self) -> None:
        """A listener's queue expires, and so does what is in it."""
        (queue,) = listener(Names(), "g1").queues
        self.assertEqual(queue.name, "crawlfarm.ended.g1")
        self.assertLess(queue.arguments["x-message-ttl"], queue.arguments["x-expires"])
        self.assertEqual(queue.arguments["x-max-length"], topology.ENDED_KEPT)

    def test_prefix(self) -> None:
        """A prefix that cannot begin a name is refused."""
        for prefix in ("", "amq.x", "a b", "ä", "x" * 101, "a*"):
            self.assertRaises(ConfigError, Names, prefix)

    def test_definitions(self) -> None:
        """They are JSON, in one virtual host, with every field the server wants."""
        made = json.loads(json.dumps(definitions(farm(Names("two")), "farms")))
        self.assertEqual(made["vhosts"], [{"name": "farms"}])
        self.assertEqual([e["name"] for e in made["exchanges"]], ["two.jobs", "two.dead", "two.ended"])
        self.assertEqual([q["name"] for q in made["queues"]], ["two.jobs", "two.dead"])
        self.assertEqual({b["routing_key"] for b in made["bindings"]}, {"two.jobs", ""})
        for kind in ("exchanges", "queues", "bindings"):
            self.assertEqual({thing["vhost"] for thing in made[kind]}, {"farms"})


class ImportTests(SynchronousTestCase):
    def test_no_reactor(self) -> None:
        """Importing the queue chooses no reactor: Scrapy's is chosen later."""
        code = "import sys, crawlfarm.adapters.rabbit.queue; sys.exit('twisted.internet.reactor' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class BrokerTests(SynchronousTestCase):
    def test_url(self) -> None:
        """Its parts are read; user and password show nowhere."""
        broker = Broker.at(URL)
        self.assertEqual((broker.host, broker.port, broker.vhost), ("queue.example", 5673, "a/b"))
        self.assertEqual(broker.shown, "amqp://queue.example:5673/a%2Fb")
        self.assertNotIn("hush", repr(broker) + str(broker))

    def test_defaults(self) -> None:
        """The usual ports, the virtual host /, heartbeats unless the URL has its own."""
        plain, secure = Broker.at("amqp://queue.example"), Broker.at("amqps://queue.example?heartbeat=7")
        self.assertEqual((plain.port, plain.vhost, plain.secure), (5672, "/", False))
        self.assertEqual((secure.port, secure.secure), (5671, True))
        self.assertEqual(plain.parameters().heartbeat, HEARTBEAT_S)
        self.assertEqual(secure.parameters().heartbeat, 7)

    def test_wrong_urls(self) -> None:
        """A URL that cannot be used is refused by the variable's name, without what it holds."""
        for url in (
            "http://who:hush@queue.example",
            "amqp://",
            "amqp://who:hush@queue.example:port/",
            "amqp://who:hu/sh@queue.example",
            "amqp://who:1#hush@queue.example",
            "amqp://who:1?hush@queue.example",
            "amqp://who@queue.example",
            "amqp://who:hush@[queue.example",
            "amqp://who:hush@queue.example?hush=1",
            "amqps://who:hush@queue.example?ssl_options={'cafile':'hush'}",
        ):
            wrong = self.assertRaises(ConfigError, Broker.at, url)
            self.assertIn(VARIABLE, str(wrong))
            self.assertNotIn("hush", str(wrong), url)
            self.assertIsNone(wrong.__cause__)

    def test_versions(self) -> None:
        """A server without quorum queues is refused; one that does not say its version is not."""
        broker = Broker.at(URL)
        for version in ((3, 8), (3, 10, 8), (4, 1, 0), ()):
            broker.check(version)
        old = self.assertRaises(ConfigError, broker.check, (3, 7, 28))
        self.assertIn("3.7.28 is too old", str(old))
        self.assertIn(VARIABLE, str(old))


class BlameTests(SynchronousTestCase):
    """What the driver raises, in an operator's words."""

    def check(self, problem: BaseException, kind: type[Exception], *words: str) -> None:
        found = blame(problem, Broker.at(URL))
        self.assertIsInstance(found, kind)
        self.assertIs(found.__cause__, problem)
        for word in (VARIABLE, "amqp://queue.example:5673/a%2Fb", *words):
            self.assertIn(word, str(found))
        self.assertNotIn("hush", str(found))
        self.assertNotIn("'who'", str(found))

    def test_who_and_where(self) -> None:
        """A wrong password or virtual host is the operator's; one that only starts is nobody's."""
        closed = exceptions.ConnectionClosedByBroker
        for code, text, kind, word in (
            (403, "ACCESS_REFUSED - Login was refused using …", ConfigError, "user name or password"),
            (530, "NOT_ALLOWED - vhost a/b not found", ConfigError, "no virtual host 'a/b'"),
            (530, "NOT_ALLOWED - access to vhost 'a/b' refused for user 'who'", ConfigError, "may not enter"),
            (530, "… refused for user 'who': connection limit (1) is reached", Unavailable, "for the moment"),
            (541, "… refused for user 'who': vhost 'a/b' is down", Unavailable, "for the moment"),
        ):
            self.check(closed(code, text), kind, word)

    def test_rights(self) -> None:
        """A missing right names what it is missing on."""
        text = "ACCESS_REFUSED - access to queue 'crawlfarm.jobs' in vhost 'a/b' refused for user 'who'"
        self.check(exceptions.ChannelClosedByBroker(403, text), ConfigError, "queue 'crawlfarm.jobs'", "'a/b'")

    def test_other_arguments(self) -> None:
        """A queue of that name with other arguments is the operator's; an acknowledgement that is late is not."""
        text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'crawlfarm.jobs' in vhost '/'"
        self.check(exceptions.ChannelClosedByBroker(406, text), ConfigError, "other arguments", "x-queue-type")
        text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"
        self.check(exceptions.ChannelClosedByBroker(406, text), Unavailable, "timed out")

    def test_away(self) -> None:
        """Whatever passes by itself is nobody's fault."""
        for problem, word in (
            (error.ConnectionRefusedError(), "cannot be reached"),
            (error.DNSLookupError("x"), "'queue.example' is not known"),
            (error.ConnectionLost(), "was lost"),
            (defer.TimeoutError(), "did not answer in time"),
            (exceptions.AMQPHeartbeatTimeout("x"), "nothing was heard"),
            (exceptions.IncompatibleProtocolError("x"), "does not speak AMQP"),
            (exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - shutdown"), "CONNECTION_FORCED"),
            (exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no exchange"), "was deleted"),
        ):
            self.check(problem, Unavailable, word)

    def test_ours(self) -> None:
        """An error of ours stays what it is."""
        ours = Unavailable("x")
        self.assertIs(blame(ours, Broker.at(URL)), ours)
