"""``crawlfarm up`` with processes of its own: kept running, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket

from tests.support.commands import free_port
from tests.support.daemons import QUICK, DaemonTests, children_of, gone, pid_of, readiness, until
from tests.support.gated import GatedSite, tree


class SupervisorTests(DaemonTests):
    def setUp(self) -> None:
        super().setUp()
        self.use_shared_servers()

    def pair_of_ports(self) -> int:
        """A port such that it and the next one are free."""
        while True:
            port = free_port()
            with socket.socket() as s:
                if port < 65535 and s.connect_ex(("127.0.0.1", port + 1)):
                    return port

    def test_a_farm(self) -> None:
        """Three workers, two masters, two gateways: each a process, with its name before its lines;
        ports count up; what dies starts again, later and later; the end takes all along."""
        self.environ |= QUICK
        port = self.pair_of_ports()
        up = self.supervised(
            "--workers",
            "3",
            "--masters",
            "2",
            "--gateways",
            "2",
            CRAWLFARM_GATEWAY_LISTEN=f"tcp:{port}:interface=127.0.0.1",
            CRAWLFARM_METRICS_LISTEN="tcp:0",
        )
        endpoints = up.ready["endpoints"]
        self.assertEqual(endpoints[:2], [f"ws://127.0.0.1:{port}", f"ws://127.0.0.1:{port + 1}"])
        self.assertEqual([readiness(url)[0] for url in endpoints[2:]], [200] * 8)
        running = children_of(up.pid)
        self.assertEqual(sorted(running.values()), sorted(["gateway", "master"] * 2 + ["worker"] * 3 + ["lockd"]))

        site = GatedSite(self, tree())
        for gateway, depth in zip(endpoints[:2], (3, 4), strict=True):
            self.gateway = gateway
            client = self.client("submit", site.seed, "--depth", str(depth), "-o", "-")
            self.assert_answer(json.loads(self.output_of(client)), site.answer(depth))

        seen: set[int] = set()
        for times in (1, 2, 3):
            pid = until(lambda: {p for p, k in children_of(up.pid).items() if k == "lockd"} - seen, "no lockd").pop()
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
            until(
                lambda: len(re.findall(r"^lockd .*was ended by signal 9", up.stderr, re.MULTILINE)) == times,  # noqa: B023
                "it is not said",
            )
        self.assertEqual(
            re.findall(r"^lockd .* starts again in (\S+) s", up.stderr, re.MULTILINE), ["0.2", "0.4", "0.8"]
        )

        everyone = [*running, pid_of(up, "lockd")]
        up.signal(signal.SIGTERM)
        self.assertEqual(up.wait(), 0, up.stderr)
        self.assertEqual([pid for pid in everyone if not gone(pid)], [])
        for name in ("gateway-1", "gateway-2", "master-1", "master-2", "worker-1", "worker-3"):
            self.assertRegex(up.stderr, rf"(?m)^{name} *\| stopping: ")
        self.assertEqual(len(up.lines), 1, up.lines)

    def test_killed(self) -> None:
        """kill -9 of `up` itself: its children see that, give back what they have, and leave."""
        up = self.supervised()
        running = children_of(up.pid)
        self.assertEqual(len(running), 4)
        os.kill(up.pid, signal.SIGKILL)
        self.assertEqual(up.wait(), -signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in running), "they go on without it")

    def test_a_child_that_hangs(self) -> None:
        """A stopped process (SIGSTOP) does not keep the others from leaving; Ctrl-C twice is at once."""
        up = self.supervised()
        running = children_of(up.pid)
        worker = pid_of(up, "worker")
        os.kill(worker, signal.SIGSTOP)
        up.signal(signal.SIGINT)
        until(lambda: gone(pid_of_kind(running, "master")), "the others wait for it")
        up.signal(signal.SIGINT)
        self.assertEqual(up.wait(10), 128 + signal.SIGINT)
        os.kill(worker, signal.SIGCONT)
        until(lambda: all(gone(pid) for pid in running), "somebody is left")

    def test_wrong_configuration(self) -> None:
        """What no restart would mend ends the whole, with the child's own words; exit 2."""
        url = self.environ["CRAWLFARM_FRONTIER_URL"].replace("redis://", "redis://u:hunter2@")
        up = self.start("--log-format", "json", "up", CRAWLFARM_FRONTIER_URL=url)
        self.assertEqual(up.wait(), 2, up.stderr)
        *lines, last = up.stderr.splitlines()
        self.assertRegex(last, r"^crawlfarm: error: (gateway|master|worker) cannot be started: what it said is above$")
        said = [json.loads(line) for line in lines]
        self.assertTrue(any("CRAWLFARM_FRONTIER_URL" in line["message"] for line in said), said)
        self.assertLessEqual({line["process"] for line in said}, {"up", "gateway", "lockd", "master", "worker"})
        self.assertNotIn("hunter2", up.stderr)


def pid_of_kind(running: dict[int, str], kind: str) -> int:
    return next(pid for pid, k in running.items() if k == kind)
