"""Health, readiness, metrics and JSON logs; daemons that wait for servers, or will not."""

from __future__ import annotations

import json
import re
import signal

from tests.support.commands import free_port
from tests.support.daemons import QUICK, DaemonTests, ask, metric, readiness, until, url_of
from tests.support.gated import GatedSite, tree
from tests.support.servers import RedisServer, redis_server


class HealthTests(DaemonTests):
    def test_up_in_one_process(self) -> None:
        """One page for all: what is counted, under its names, each with a help text."""
        site = GatedSite(self, tree())
        up = self.up(CRAWLFARM_METRICS_LISTEN="tcp:0")
        url = url_of(up)
        self.assertTrue(url.startswith("http://127.0.0.1:"), "loopback unless told otherwise")
        self.assertEqual(json.loads(ask(url, "/healthz")[1])["status"], "ok")
        self.assertEqual(readiness(url), (200, {"ready": True, "name": "up", "missing": {}, "without": {}}))
        self.output_of(self.client("submit", site.seed, "--depth", "4", "-o", "a.json"))
        truth = site.answer(4)
        self.assertEqual(metric(url, "crawlfarm_pages_total"), len(truth.pages))
        self.assertEqual(metric(url, "crawlfarm_page_leases"), 0)
        self.assertGreater(metric(url, "crawlfarm_frontier_exchange_seconds_count"), 0)
        self.assertGreater(metric(url, "crawlfarm_lockd_commits_total"), 0)
        self.assertGreater(metric(url, "crawlfarm_reactor_lag_seconds_count"), 0)
        _, text = ask(url, "/metrics")
        self.assertIn('crawlfarm_jobs{state="done"} 1.0', text)
        self.assertRegex(text, r'crawlfarm_queue_publishes_total\{outcome="confirmed",what="job"\} [1-9]')
        names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
        self.assertEqual(names, set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)))
        for name in ("crawlfarm_gateway_connections", "crawlfarm_master_jobs", "process_resident_memory_bytes"):
            self.assertIn(name, names)
        self.assertEqual(ask(url, "/other")[0], 404)

    def test_a_server_is_away(self) -> None:
        """At the start: said, waited for, not ready; later: not ready, by name, and ready again."""
        redis = RedisServer.start(self)
        redis.down()
        port = free_port()
        worker = self.daemon("worker", CRAWLFARM_FRONTIER_URL=f"{redis.url}/0", CRAWLFARM_METRICS_LISTEN=f"tcp:{port}")
        url = f"http://127.0.0.1:{port}"
        until(lambda: "waiting for the frontier: CRAWLFARM_FRONTIER_URL" in worker.stderr, "it says nothing")
        status, answer = readiness(url)
        self.assertEqual((status, answer["ready"], list(answer["missing"])), (503, False, ["frontier"]))
        self.assertEqual(ask(url, "/healthz")[0], 200)
        redis.up()
        worker.wait_ready()
        self.assertEqual(readiness(url)[0], 200)
        redis.down()
        until(lambda: readiness(url)[0] == 503, "it does not notice")
        self.assertIn("CRAWLFARM_FRONTIER_URL", readiness(url)[1]["missing"]["frontier"])
        redis.up()
        until(lambda: readiness(url)[0] == 200, "it does not come back")
        worker.signal(signal.SIGTERM)
        self.assertEqual(worker.wait(), 0, worker.stderr)

    def test_stopped_while_it_waits(self) -> None:
        """SIGTERM before it was ready: it says so, and leaves at once."""
        worker = self.daemon("worker", CRAWLFARM_FRONTIER_URL="redis://127.0.0.1:1")
        until(lambda: "waiting for the frontier" in worker.stderr, "it says nothing")
        worker.signal(signal.SIGTERM)
        self.assertEqual(worker.wait(10), 0, worker.stderr)
        self.assertEqual(worker.stderr.splitlines()[-1], "stopping: the worker had not begun")
        self.assertEqual(worker.lines, [])

    def test_refused(self) -> None:
        """A wrong password, a port that is taken, stand-ins that cannot be shared: exit 2, one line."""
        url = redis_server().fresh(self)
        wrong = self.daemon("worker", CRAWLFARM_FRONTIER_URL=url.replace("redis://", "redis://u:hunter2@"))
        self.assertEqual(wrong.wait(), 2)
        self.assertRegex(wrong.stderr, r"crawlfarm: error: CRAWLFARM_FRONTIER_URL: .*\n$")
        self.assertNotIn("hunter2", wrong.stderr)
        up = self.up(CRAWLFARM_METRICS_LISTEN="tcp:0")
        taken = self.daemon("worker", CRAWLFARM_FRONTIER_URL=url, CRAWLFARM_METRICS_LISTEN=f"tcp:{url_of(up)[17:]}")
        self.assertEqual(taken.wait(), 2)
        self.assertRegex(taken.stderr, r"^crawlfarm: error: CRAWLFARM_METRICS_LISTEN: .* in use already\n$")
        needs = {
            "worker": ["CRAWLFARM_FRONTIER_URL"],
            "lockd": ["CRAWLFARM_BROKER_URL", "CRAWLFARM_DATABASE_URL"],
            "master": ["CRAWLFARM_BROKER_URL", "CRAWLFARM_FRONTIER_URL", "CRAWLFARM_DATABASE_URL"],
            "gateway": ["CRAWLFARM_BROKER_URL", "CRAWLFARM_FRONTIER_URL", "CRAWLFARM_DATABASE_URL"],
        }
        children = {kind: self.daemon(kind) for kind in needs}
        for kind, child in children.items():
            self.assertEqual(child.wait(), 2)
            self.assertEqual(re.findall("CRAWLFARM_[A-Z_]+", child.stderr), needs[kind])


class ServerTests(DaemonTests):
    """The real servers, away or refusing, seen by each daemon that needs them."""

    def test_all_are_away(self) -> None:
        """Each daemon names every setting that it waits for, and leaves on SIGTERM."""
        nobody = {
            "CRAWLFARM_BROKER_URL": "amqp://u:hunter2@127.0.0.1:1/",
            "CRAWLFARM_FRONTIER_URL": "redis://:hunter2@127.0.0.1:1",
            "CRAWLFARM_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d",
        }
        waits = {kind: [*nobody, "CRAWLFARM_LOCKD"] for kind in ("gateway", "master")}
        waits["lockd"] = ["CRAWLFARM_BROKER_URL", "CRAWLFARM_DATABASE_URL"]
        children = {kind: self.daemon(kind, **nobody) for kind in waits}
        for kind, names in waits.items():
            child = children[kind]
            until(lambda: all(name in child.stderr for name in names), f"{kind}: {names}")  # noqa: B023
            child.signal(signal.SIGTERM)
        for child in children.values():
            self.assertEqual(child.wait(15), 0, child.stderr)
            self.assertNotIn("hunter2", child.stderr)
            self.assertEqual(child.lines, [])

    def test_each_refuses(self) -> None:
        """A wrong password or secret: exit 2, and a last line that names the setting."""
        self.use_shared_servers()
        good = dict(self.environ)
        secret = self.folder / "secret"
        secret.write_text("hunter2 hunter2 hunter2")
        wrong = {
            "CRAWLFARM_BROKER_URL": ("lockd", _with_password(good["CRAWLFARM_BROKER_URL"])),
            "CRAWLFARM_DATABASE_URL": ("lockd", _with_password(good["CRAWLFARM_DATABASE_URL"])),
            "CRAWLFARM_CACHE_URL": ("gateway", good["CRAWLFARM_CACHE_URL"].replace("redis://", "redis://u:hunter2@")),
            "CRAWLFARM_LOCKD_SECRET_FILE": ("master", str(secret)),
        }
        lockd = self.daemon("lockd")
        lockd.wait_ready()
        elsewhere = {"CRAWLFARM_LOCKD_LISTEN": f"tcp:{free_port()}:interface=127.0.0.1"}
        children = {n: self.daemon(kind, **{n: value, **elsewhere}) for n, (kind, value) in wrong.items()}
        for name, child in children.items():
            self.assertEqual(child.wait(), 2, child.stderr)
            self.assertRegex(child.stderr.splitlines()[-1], rf"^crawlfarm: error: .*{name}")
            self.assertNotIn("hunter2", child.stderr)
        second = self.daemon("lockd", **elsewhere)
        self.assertEqual(second.wait(), 2, second.stderr)
        self.assertRegex(second.stderr, r"error: CRAWLFARM_DATABASE_URL .*another lock daemon works on this database")


def _with_password(url: str) -> str:
    return re.sub(r"//([^:]+):[^@]+@", r"//\1:hunter2@", url)


class LogTests(DaemonTests):
    """``--log-format json``."""

    def test_json(self) -> None:
        """One object a line, with job and token where a line is about one."""
        self.environ |= QUICK
        site = GatedSite(self, tree())
        up = self.start("-v", "--log-format", "json", "up", "--allow-network", "127.0.0.0/8")
        self.gateway = up.wait_ready()["endpoints"][0]
        self.output_of(self.client("submit", site.seed, "--depth", "4", "-o", "a.json"))
        self.assertEqual(up.stop(), 0)
        lines = [json.loads(line) for line in up.stderr.splitlines()]
        self.assertTrue(any(line["message"].startswith("stopping: ") for line in lines))
        for line in lines:
            self.assertLessEqual({"time", "level", "logger", "message"}, line.keys())
        begins = [line for line in lines if line["message"].endswith("begins")]
        self.assertEqual(len(begins), 1)
        self.assertEqual((begins[0]["logger"], begins[0]["token"]), ("crawlfarm.master.daemon", 1))
        self.assertIn(begins[0]["job"], begins[0]["message"])
