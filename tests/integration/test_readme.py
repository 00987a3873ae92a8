"""Every command the README shows does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.commands import free_port
from tests.support.processes import Child
from tests.support.servers import PostgresServer, rabbitmq_server, redis_server
from tests.support.site import Site

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = "https://docs.example/"


def blocks() -> list[list[str]]:
    """The README's shell blocks, each as its lines without comments."""
    text = (ROOT / "README.md").read_text()
    found = [
        [line.partition("  #")[0].strip() for line in block.splitlines() if line.strip()]
        for block in BLOCK.findall(text)
    ]
    return [block for block in found if block]


class ReadmeTests(SynchronousTestCase):
    """The README's commands, run against a site on loopback instead of the example."""

    def setUp(self) -> None:
        self.site = Site.of_graph(3, test=self)
        self.folder = Path(self.mktemp()).absolute()
        shutil.copytree(ROOT / "crawlfarm", self.folder / "crawlfarm")
        shutil.copy(ROOT / "scrapy.cfg", self.folder)
        port = free_port()
        self.environ = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "CRAWLFARM_ALLOW_NETWORKS": "127.0.0.0/8,::1/128",
            "CRAWLFARM_RUN_DIR": str(self.folder / ".run"),
            "CRAWLFARM_GATEWAY_LISTEN": f"tcp:{port}:interface=127.0.0.1",
        }
        self.gateway = f"ws://127.0.0.1:{port}/"

    def shell(self, lines: list[str]) -> None:
        script = "\n".join(["set -eu", *lines]).replace(EXAMPLE, self.site.seed)
        script = re.sub(r"crawlfarm (submit|status|resume|cancel)", rf"crawlfarm \1 --gateway {self.gateway}", script)
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}\n{done.stderr}")

    def farm(self, command: str) -> Child:
        farm = Child([str(BIN / "crawlfarm"), *command.split()[1:]], environ=self.environ, cwd=self.folder)
        self.addCleanup(farm.stop)
        return farm

    def real_farm(self, block: list[str]) -> None:
        """``up`` with servers; the doctor has nothing to say about it once it is up."""
        doctor, up = block
        lockd = free_port()
        self.environ |= {
            "CRAWLFARM_BROKER_URL": rabbitmq_server().fresh_vhost(self),
            "CRAWLFARM_FRONTIER_URL": redis_server().fresh(self),
            "CRAWLFARM_CACHE_URL": redis_server().fresh(self),
            "CRAWLFARM_DATABASE_URL": PostgresServer.start(self, durable=True).url,
            "CRAWLFARM_GATEWAY_LISTEN": f"tcp:{free_port()}:interface=127.0.0.1",
            "CRAWLFARM_LOCKD_LISTEN": f"tcp:{lockd}:interface=127.0.0.1",
            "CRAWLFARM_LOCKD": f"tcp:127.0.0.1:{lockd}",
        }
        farm = self.farm(up)
        farm.wait_ready()
        self.assertEqual(len([e for e in farm.ready["endpoints"] if e.startswith("ws://")]), 2)
        self.shell([doctor])

    def test_every_block(self) -> None:
        """Each shell block works as it stands, in its order; make's targets exist."""
        seen = []
        for block in blocks():
            seen.append(block[0].split()[0])
            if block[0].startswith("make "):
                for line in block:
                    self.assertEqual(subprocess.call(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, stdout=-3), 0)
            elif block == ["crawlfarm up"]:
                self.farm(block[0]).wait_ready()
            elif block[0] == "crawlfarm doctor":
                self.real_farm(block)
            else:
                self.shell(block)
        self.assertIn("make", seen)
        self.assertIn("scrapy", seen)
        self.assertGreater((self.folder / "pages.csv").stat().st_size, 100)
        self.assertGreater((self.folder / "pages.jsonl").stat().st_size, 100)
        self.assertGreater((self.folder / "result.json").stat().st_size, 100)
