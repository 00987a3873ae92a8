"""The ``crawlfarm`` command as its users run it: child processes with a run directory of their own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from tests.support.answer import Answer
from tests.support.processes import Child
from tests.support.servers.base import free_ports

CRAWLFARM = str(Path(sys.executable).with_name("crawlfarm"))
LOOPBACK = ("--allow-network", "127.0.0.0/8", "--allow-network", "::1/128")


def free_port() -> int:
    """A port nobody listens on now, nor gets by chance; most likely the next one is free, too."""
    return free_ports(1)[0]


class CommandTests(TestCase):
    """Every child ends with its test; :attr:`run_dir` is new for each."""

    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.run_dir = self.folder / "run"
        self.port = 0

    def start(self, *arguments: str, merged: bool = False, **environ: str) -> Child:
        """Start ``crawlfarm`` with these arguments.

        :param merged: its stderr goes to stdout, so that its lines can be waited for.
        """
        argv = [CRAWLFARM, *arguments]
        return self.start_other(["sh", "-c", 'exec "$@" 2>&1', "sh", *argv] if merged else argv, **environ)

    def start_other(self, argv: list[str], cwd: Path | None = None, **environ: str | None) -> Child:
        environ = {"CRAWLFARM_RUN_DIR": str(self.run_dir), "COLUMNS": "100", **environ}
        child = Child(argv, environ=environ, cwd=cwd or self.folder, deadline_s=45)
        self.addCleanup(child.__exit__, None, None, None)
        return child

    def up(self, *, port: int = 0, **environ: str) -> Child:
        """A farm, ready; later commands of :meth:`client` go to it."""
        listen = f"tcp:{port}:interface=127.0.0.1"
        child = self.start("up", *LOOPBACK, CRAWLFARM_GATEWAY_LISTEN=listen, **environ)
        self.gateway = child.wait_ready()["endpoints"][0]
        return child

    def client(self, command: str, *arguments: str, merged: bool = False) -> Child:
        return self.start(command, *arguments, "--gateway", self.gateway, merged=merged)

    def output_of(self, child: Child, code: int = 0) -> str:
        """Its stdout, once it has ended with ``code``."""
        self.assertEqual(child.wait(), code, child.stderr)
        return child.stdout

    def state(self, job: str) -> str:
        """What ``crawlfarm status`` says of a job."""
        state: str = json.loads(self.output_of(self.client("status", job)))["state"]
        return state

    def job_of(self, client: Child) -> str:
        """The id that ``crawlfarm submit`` says on its first line."""
        found = re.match(r"job (\S+) accepted\n", client.stderr)
        assert found is not None, client.stderr
        return found[1]

    def submit_detached(self, url: str, depth: int) -> str:
        output = self.output_of(self.client("submit", url, "--depth", str(depth), "--detach"))
        self.assertRegex(output, r"^[0-9a-f-]{36}$")
        return output

    def assert_answer(self, result: dict[str, Any], truth: Answer) -> None:
        """``result``, a result message, is exactly ``truth``."""
        self.assertEqual(result["type"], "result")
        self.assertEqual(result["levels"], truth.levels)
        self.assertEqual(result["receipt"], truth.receipt)
        self.assertEqual(result["depth"], truth.depth)

    def assert_records(self, records: list[dict[str, Any]], truth: Answer) -> None:
        """A line for every URL found, once, and what became of it."""
        found = {r["url"]: (int(r["depth"]), r["disposition"], int(r["status"])) for r in records}
        self.assertEqual(len(found), len(records), "a URL is there twice")
        self.assertEqual(found, {url: (p.depth, p.disposition, p.status) for url, p in truth.pages.items()})

    def assert_clean(self, folder: Path) -> None:
        """No half-written or temporary file is left in ``folder``."""
        self.assertEqual([p.name for p in folder.iterdir() if p.name.startswith((".", "run-"))], [])
