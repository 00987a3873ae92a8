"""What ``crawlfarm up`` makes of its settings for its children, and of their lines."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from twisted.logger import Logger, STDLibLogObserver
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.cli.fleet import counted_up, fleet, passed_on
from crawlfarm.cli.health import loopback_unless_told
from crawlfarm.cli.logs import JsonFormatter, Logging, without_secrets
from crawlfarm.config import Config
from crawlfarm.errors import ConfigError


class FleetTests(SynchronousTestCase):
    def test_counted_up(self) -> None:
        """Ports count up from the setting, whatever else is in it; port 0 stays."""
        for where, by, expected in (
            ("tcp:8080:interface=127.0.0.1", 2, "tcp:8082:interface=127.0.0.1"),
            ("tcp:port=8080", 1, "tcp:port=8081"),
            (r"tcp6:8080:interface=\:\:1", 1, r"tcp6:8081:interface=\:\:1"),
            ("ssl:443:privateKey=k.pem", 3, "ssl:446:privateKey=k.pem"),
            ("tcp:0:interface=127.0.0.1", 5, "tcp:0:interface=127.0.0.1"),
            ("unix:/run/gateway", 0, "unix:/run/gateway"),
        ):
            self.assertEqual(counted_up(where, by, "X"), expected)
        error = self.assertRaises(ConfigError, counted_up, "unix:/run/gateway", 1, "CRAWLFARM_GATEWAY_LISTEN")
        self.assertIn("CRAWLFARM_GATEWAY_LISTEN", error.message)

    def test_children(self) -> None:
        """Each has a name and ports of its own; all find the lock daemon, which stops last."""
        config = replace(Config(), metrics_listen="tcp:9100", lockd_listen="tcp:0:interface=127.0.0.1")
        counts = {"gateway": 2, "lockd": 1, "master": 1, "worker": 2}
        specs, stages = fleet(config, counts, Logging(2, True))
        self.assertEqual(
            [spec.name for spec in specs], ["gateway-1", "gateway-2", "lockd", "master", "worker-1", "worker-2"]
        )
        self.assertEqual(
            [spec.environ["CRAWLFARM_METRICS_LISTEN"] for spec in specs], [f"tcp:910{n}" for n in range(6)]
        )
        self.assertEqual(specs[1].environ["CRAWLFARM_GATEWAY_LISTEN"], "tcp:8081:interface=127.0.0.1")
        self.assertEqual(specs[-1].argv[-6:], ["-v", "-v", "--log-format", "json", "worker", "--supervised"])
        (where,) = {spec.environ["CRAWLFARM_LOCKD"] for spec in specs}
        self.assertRegex(where, r"^tcp:127\.0\.0\.1:[1-9]\d+$")
        port = where.rpartition(":")[2]
        self.assertEqual(specs[2].environ["CRAWLFARM_LOCKD_LISTEN"], f"tcp:{port}:interface=127.0.0.1")
        self.assertEqual(stages, [[0, 1, 3, 4, 5], [2]])
        self.assertNotIn("CRAWLFARM", repr(specs[0]))

    def test_a_lock_daemon_elsewhere(self) -> None:
        """Where the setting says it, the clients' setting is left alone."""
        specs, _ = fleet(replace(Config(), lockd=("tcp:lock.example:8091",)), {"worker": 1}, Logging())
        self.assertNotEqual(specs[0].environ.get("CRAWLFARM_LOCKD"), "tcp:127.0.0.1:8091")

    def test_health_is_on_loopback(self) -> None:
        """Unless an interface is named."""
        for where, expected in (
            ("tcp:9100", "tcp:9100:interface=127.0.0.1"),
            ("tcp6:9100", r"tcp6:9100:interface=\:\:1"),
            ("tcp:9100:interface=0.0.0.0", "tcp:9100:interface=0.0.0.0"),
            ("unix:/run/metrics", "unix:/run/metrics"),
        ):
            self.assertEqual(loopback_unless_told(where), expected)


class LineTests(SynchronousTestCase):
    def test_passed_on(self) -> None:
        """The name is in front; in JSON it is a field, whatever the line is."""
        self.assertEqual(passed_on("worker-1", "a\x1b[31mb", Logging()), "worker-1  | a\\x1b[31mb")
        as_json = Logging(as_json=True)
        line = json.loads(passed_on("worker-1", '{"level": "info", "message": "x"}', as_json))
        self.assertEqual(line, {"process": "worker-1", "level": "info", "message": "x"})
        for text in ("Traceback (most recent call last):", "[1]", "{", '"\ud800"'):
            line = json.loads(passed_on("lockd", text, as_json))
            self.assertEqual((line["process"], line["level"]), ("lockd", "warning"))

    def test_no_secrets(self) -> None:
        """User names and passwords of URLs are cut out, other text is left."""
        for text, expected in (
            ("amqp://u:p@h:1/v and redis://:p@h", "amqp://h:1/v and redis://h"),
            ("http://host/a@b:c@d", "http://host/a@b:c@d"),
            ("ws://127.0.0.1:80/", "ws://127.0.0.1:80/"),
        ):
            self.assertEqual(without_secrets(text), expected)

    def test_json(self) -> None:
        """Twisted's and stdlib's records alike: fields that are known, nothing else of a record."""
        records: list[logging.LogRecord] = []
        observer = STDLibLogObserver("crawlfarm-test")
        target = logging.getLogger("crawlfarm-test")
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        target.addHandler(handler)
        target.setLevel(logging.INFO)
        target.propagate = False
        self.addCleanup(target.removeHandler, handler)
        Logger("a.place", observer=observer).info(
            "job {job} at {where}", job="j", token=3, where="redis://u:p@h", password="p"
        )
        target.warning("plain", extra={"job": "k", "password": "p"})
        first, second = (json.loads(JsonFormatter().format(record)) for record in records)
        self.assertEqual(first.pop("time")[-6:], "+00:00")
        expected = {"level": "info", "logger": "a.place", "message": "job j at redis://h", "job": "j", "token": 3}
        self.assertEqual(first, expected)
        del second["time"]
        self.assertEqual(second, {"level": "warning", "logger": "crawlfarm-test", "message": "plain", "job": "k"})
