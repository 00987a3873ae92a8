"""``twist --reactor=asyncio crawlfarm-worker``: a daemon as a Twisted plugin."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from tests.support.daemons import DaemonTests, readiness, until, url_of
from tests.support.processes import ROOT, Child
from tests.support.servers import redis_server

TWIST = str(Path(sys.executable).with_name("twist"))


class TwistTests(DaemonTests):
    def twist(self, *arguments: str, **environ: str) -> Child:
        # A copy: Twisted writes its cache of plugins beside them.
        plugins = self.folder / "deploy" / "twisted" / "plugins"
        if not plugins.exists():
            shutil.copytree(ROOT / "deploy" / "twisted" / "plugins", plugins)
        path = os.pathsep.join([str(ROOT), str(self.folder / "deploy")])
        return self.start_other([TWIST, *arguments], **{**self.environ, **environ, "PYTHONPATH": path})

    def test_a_worker(self) -> None:
        """It says that it is ready, is healthy, and stops on SIGTERM."""
        environ = {
            "CRAWLFARM_FRONTIER_URL": redis_server().fresh(self),
            "CRAWLFARM_METRICS_LISTEN": "tcp:0:interface=127.0.0.1",
        }
        child = self.twist("--reactor=asyncio", "crawlfarm-worker", **environ)
        self.assertEqual(child.wait_ready()["ready"], "worker")
        until(lambda: readiness(url_of(child))[0] == 200, "the worker is not ready")
        child.signal(signal.SIGTERM)
        self.assertEqual(child.wait(), -signal.SIGTERM, child.stderr)  # twist ends by the signal it got
        said = [json.loads(line.lstrip("\x1e")) for line in child.lines if "log_format" in line]
        self.assertIn("stopping: {goodbye}", [line["log_format"] for line in said])

    def test_all_four(self) -> None:
        """Each kind is offered, and refused where the stand-ins of one process would be needed."""
        for kind in ("gateway", "lockd", "master", "worker"):
            child = self.twist("--reactor=asyncio", f"crawlfarm-{kind}")
            self.assertNotEqual(child.wait(), 0)
            self.assertIn("is not set" if kind == "worker" else "are not set", child.stderr + child.stdout)

    def test_refused(self) -> None:
        """Another reactor, and a server that will not have us."""
        url = redis_server().fresh(self)
        wrong = self.twist("--reactor=select", "crawlfarm-worker", CRAWLFARM_FRONTIER_URL=url)
        self.assertNotEqual(wrong.wait(), 0)
        self.assertIn("--reactor=asyncio", wrong.stderr + wrong.stdout)
        url = url.replace("redis://", "redis://nobody:hunter2@")
        child = self.twist("--reactor=asyncio", "crawlfarm-worker", CRAWLFARM_FRONTIER_URL=url)
        self.assertEqual(child.wait(), 2)
        self.assertIn("crawlfarm-worker: error: CRAWLFARM_FRONTIER_URL", child.stderr)
        self.assertNotIn("hunter2", child.stderr + child.stdout)
