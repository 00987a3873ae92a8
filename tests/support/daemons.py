"""Daemons as processes of their own, on the real servers, with what is needed to hurt them."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.support.commands import LOOPBACK, CommandTests, free_port
from tests.support.processes import Child, alive
from tests.support.servers import postgres_server, rabbitmq_server, redis_server, start_all
from tests.support.servers.base import wait_until

T = TypeVar("T")

QUICK = {
    "CRAWLFARM_HEARTBEAT_S": "0.5",
    "CRAWLFARM_JOB_LEASE_S": "3",
    "CRAWLFARM_PAGE_LEASE_S": "2",
    "CRAWLFARM_REPUBLISH_S": "3",
    "CRAWLFARM_MAX_ATTEMPTS": "10",
    "CRAWLFARM_PAGE_ATTEMPTS": "10",
}
"""Leases that end soon, for tests that kill who holds them."""


class DaemonTests(CommandTests):
    """Tests of daemons. Each test has a virtual host, a database and two Redis databases of its own."""

    timeout = 300

    def setUp(self) -> None:
        super().setUp()
        self.environ: dict[str, str] = {"CRAWLFARM_GATEWAY_LISTEN": "tcp:0:interface=127.0.0.1"}
        self.lockd_at(free_port())

    def lockd_at(self, port: int) -> None:
        self.environ["CRAWLFARM_LOCKD_LISTEN"] = f"tcp:{port}:interface=127.0.0.1"
        self.environ["CRAWLFARM_LOCKD"] = f"tcp:127.0.0.1:{port}"

    def use_shared_servers(self) -> None:
        """Those of the test run."""
        start_all()
        self.environ |= {
            "CRAWLFARM_BROKER_URL": rabbitmq_server().fresh_vhost(self),
            "CRAWLFARM_FRONTIER_URL": redis_server().fresh(self),
            "CRAWLFARM_CACHE_URL": redis_server().fresh(self),
            "CRAWLFARM_DATABASE_URL": postgres_server().fresh_database(self),
        }

    def start(self, *arguments: str, merged: bool = False, **environ: str) -> Child:
        return super().start(*arguments, merged=merged, **{**self.environ, **environ})

    def daemon(self, kind: str, *options: str, **environ: str) -> Child:
        """One daemon, not waited for, with health and metrics on a port of its own."""
        networks = LOOPBACK if kind in ("master", "worker") else ()
        metrics = {"CRAWLFARM_METRICS_LISTEN": "tcp:0:interface=127.0.0.1"}
        return self.start(*options, kind, *networks, **{**metrics, **environ})

    def five(self, **environ: str) -> dict[str, Child]:
        """Gateway, lockd, master and two workers, ready; clients go to that gateway."""
        names = ("lockd", "gateway", "master", "worker-1", "worker-2")
        children = {name: self.daemon(name.partition("-")[0], **environ) for name in names}
        for name, child in children.items():
            self.assertEqual(child.wait_ready()["ready"], name.partition("-")[0])
        self.gateway = children["gateway"].ready["endpoints"][0]
        return children

    def supervised(self, *options: str, **environ: str) -> Child:
        """``crawlfarm up`` with processes of their own, ready."""
        child = self.start("up", *options, *LOOPBACK, **environ)
        self.gateway = child.wait_ready()["endpoints"][0]
        return child


def url_of(child: Child) -> str:
    """Where a daemon answers about itself."""
    return next(e for e in child.ready["endpoints"] if e.startswith("http"))


def ask(url: str, path: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"{url}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()


def readiness(url: str) -> tuple[int, dict[str, Any]]:
    status, body = ask(url, "/readyz")
    return status, json.loads(body)


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    _, text = ask(url, "/metrics")
    return sum(float(m[1]) for m in re.finditer(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def children_of(pid: int) -> dict[int, str]:
    """Process ids of the daemons that ``crawlfarm up`` runs, with their kind."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if int(parent) == pid and "--supervised" in words:
            found[int(entry.name)] = words[words.index("--supervised") - 1]
    return found


def pid_of(up: Child, kind: str) -> int:
    """The process id of its first daemon of a kind, once there is one."""

    def look() -> int:
        return min((pid for pid, k in children_of(up.pid).items() if k == kind), default=0)

    return until(look, f"no {kind} runs")


def until(holds: Callable[[], T], what: str, deadline_s: float = 30.0) -> T:
    """Ask until the answer is true."""
    return wait_until(holds, deadline_s, what)


def kill(pid: int, number: int = 9) -> None:
    """End one process that the test started."""
    os.kill(pid, number)


def gone(pid: int) -> bool:
    return not alive(pid)
