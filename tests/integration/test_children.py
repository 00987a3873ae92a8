"""The supervisor, over children made for it."""

from __future__ import annotations

import os
import signal
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from crawlfarm.cli.supervisor import ChildRefused, ChildSpec, Supervisor
from tests.support.daemons import gone

READY = 'print(\'{"ready": "x", "endpoints": ["here"]}\', flush=True)'
STUBBORN = f"import signal, time; signal.signal(15, signal.SIG_IGN); {READY}; time.sleep(60)"
GOOD = f"import sys; {READY}; sys.stdin.read()"


class Said:
    """What the children wrote, and what was said of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._waiting: list[tuple[str, int, Deferred[None]]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append(f"{name}: {line}")
        for waiting in list(self._waiting):
            text, times, heard = waiting
            if self.count(text) >= times:
                self._waiting.remove(waiting)
                heard.callback(None)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def heard(self, text: str, times: int = 1) -> Deferred[None]:
        """Fires when it was said so often."""
        heard: Deferred[None] = Deferred()
        self._waiting.append((text, times, heard))
        return heard


class SupervisorTests(TestCase):
    timeout = 30

    def supervisor(self, *codes: str, stop_s: float = 5.0) -> Supervisor:
        specs = [
            ChildSpec(f"child-{n}", [sys.executable, "-c", code], dict(os.environ)) for n, code in enumerate(codes)
        ]
        self.said = Said()
        supervisor = Supervisor(reactor, specs, [list(range(len(specs)))], say=self.said, stop_s=stop_s)
        self.addCleanup(lambda: Deferred.fromCoroutine(supervisor.stop()))
        return supervisor

    async def test_ready_and_gone(self) -> None:
        """It waits for the ready lines, knows the endpoints, and leaves nothing."""
        supervisor = self.supervisor(GOOD, GOOD)
        await supervisor.start()
        self.assertEqual([child.endpoints for child in supervisor.children], [["here"], ["here"]])
        pids = [child.pid for child in supervisor.children]
        await supervisor.stop()
        self.assertEqual([gone(pid) for pid in pids if pid is not None], [True, True])
        self.assertEqual(self.said.lines, [])

    async def test_one_that_will_not_stop(self) -> None:
        """It is killed when its time is over."""
        supervisor = self.supervisor(STUBBORN, stop_s=0.2)
        await supervisor.start()
        pid = supervisor.children[0].pid
        assert pid is not None
        await supervisor.stop()
        self.assertTrue(gone(pid))
        self.assertEqual(self.said.lines, ["child-0: did not stop within 0.2 s, and is killed"])

    async def test_one_that_keeps_ending(self) -> None:
        """It starts again, after pauses that double; its lines are passed on, a long one in pieces."""
        long = 100_000
        supervisor = self.supervisor(f"{READY}; print('x' * {long}); print('last', end='')")
        again = self.said.heard("starts again", 3)
        await supervisor.start()
        await again
        await supervisor.stop()
        pauses = [line.split()[-2] for line in self.said.lines if "starts again" in line]
        self.assertEqual(pauses[:3], ["0.2", "0.4", "0.8"])
        self.assertIn("child-0: ended with code 0, and starts again in 0.2 s", self.said.lines)
        self.assertGreaterEqual(sum(line.count("x") for line in self.said.lines if set(line[9:]) == {"x"}), long)
        self.assertIn("child-0: last", self.said.lines)

    async def test_killed(self) -> None:
        """By somebody else: it says by which signal."""
        supervisor = self.supervisor(GOOD)
        await supervisor.start()
        said = self.said.heard("was ended by signal 9, and starts again")
        pid = supervisor.children[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await said

    async def test_refused(self) -> None:
        """Exit code 2 before it was ready: a restart would not mend it."""
        supervisor = self.supervisor(GOOD, "import sys; sys.exit(2)")
        with self.assertRaises(ChildRefused) as caught:
            await supervisor.start()
        self.assertIn("child-1 cannot be started", caught.exception.message)
