"""Ctrl-C and SIGTERM: the job is cancelled, told, and nothing is left of it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.support.commands import CRAWLFARM, LOOPBACK, CommandTests
from tests.support.gated import GatedSite, tree
from tests.support.processes import Child

AT_ONCE_S = 3.0
SOON_S = 6.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class InterruptTests(CommandTests):
    """The site hangs in every one of these: nobody may wait for it."""

    def setUp(self) -> None:
        super().setUp()
        self.site = GatedSite(self, tree(), gated=["/gate"])
        self.output = self.folder / "out" / "pages.jsonl"
        self.output.parent.mkdir()
        self.output.write_text("what was there before\n")

    def interrupt(self, child: Child, number: signal.Signals, within_s: float) -> None:
        began = time.monotonic()
        child.signal(number)
        self.assertEqual(child.wait(20), CODES[number], child.stderr)
        self.assertLess(time.monotonic() - began, within_s)

    def assert_nothing_written(self) -> None:
        self.assertEqual(self.output.read_text(), "what was there before\n")
        self.assertEqual(list(self.output.parent.iterdir()), [self.output])

    def test_run(self) -> None:
        """It says what was done so far; its directory is gone, the output file untouched."""
        asked = ["run", self.site.seed, "--depth", "4", *LOOPBACK, "-o", str(self.output)]
        runs = {number: self.start(*asked) for number in CODES}
        self.site.wait_asked("/gate", 2)
        for number, run in runs.items():
            self.interrupt(run, number, SOON_S)
            self.assertEqual(run.stdout, "")
            lines = run.stderr.splitlines()
            said = lines[lines.index("interrupted: cancelling the job (once more to leave at once)") :]
            self.assertIn("the job was cancelled; until then:", said)
            self.assertRegex(run.stderr, r"fetched +│ +[1-9] │\n│ +skipped: cancelled +│ +[1-9] │\n│ complete +│ no ")
            self.assertNotIn("Traceback", run.stderr)
        self.assertEqual(list(self.run_dir.iterdir()), [])
        self.assert_nothing_written()

    def test_submit(self) -> None:
        """The farm says it is cancelled, and goes on with the rest."""
        up = self.up()
        for number in CODES:
            times = self.site.asked["/gate"] + 1
            client = self.client("submit", self.site.seed, "--depth", "4", "-o", str(self.output))
            self.site.wait_asked("/gate", times)
            self.interrupt(client, number, SOON_S)
            self.assertIn("the job was cancelled; until then:", client.stderr)
            self.assertEqual(self.state(self.job_of(client)), "cancelled")
        self.assert_nothing_written()
        resume = self.client("resume", self.submit_detached(self.site.seed, 3), "-o", str(self.output), merged=True)
        resume.wait_line(lambda line: line.startswith("running: "))
        self.interrupt(resume, signal.SIGINT, SOON_S)
        self.assertIn("the job goes on; `crawlfarm resume ", resume.stdout)
        self.assert_nothing_written()
        self.assertEqual(up.stop(), 0)
        self.assertNotIn("Traceback", up.stderr)

    def test_twice(self) -> None:
        """A second Ctrl-C does not wait for anything, and cleans up all the same."""
        up = self.up()
        client = self.client("submit", self.site.seed, "--depth", "4", "-o", str(self.output), merged=True)
        self.site.wait_asked("/gate")
        up.signal(signal.SIGSTOP)  # so that nobody answers the cancel
        self.addCleanup(up.signal, signal.SIGCONT)
        client.signal(signal.SIGINT)
        client.wait_line(lambda line: line.startswith("interrupted: "))
        self.interrupt(client, signal.SIGINT, AT_ONCE_S)
        self.assert_nothing_written()

    def test_hangup(self) -> None:
        """The terminal is closed: it leaves at once, and nothing behind; under ``nohup`` it goes on."""
        asked = ["run", self.site.seed, "--depth", "4", *LOOPBACK, "-o", str(self.output)]
        run, sheltered = self.start(*asked), self.start_other(["nohup", CRAWLFARM, *asked])
        self.site.wait_asked("/gate", 2)
        began = time.monotonic()
        run.signal(signal.SIGHUP)
        sheltered.signal(signal.SIGHUP)
        self.assertEqual(run.wait(20), 129, run.stderr)
        self.assertLess(time.monotonic() - began, AT_ONCE_S)
        self.assertIsNone(sheltered.process.poll())
        self.interrupt(sheltered, signal.SIGINT, SOON_S)
        self.assertEqual(list(self.run_dir.iterdir()), [])
        self.assert_nothing_written()

    def test_while_it_starts(self) -> None:
        """At whatever moment it comes: no traceback, no process, no directory left."""
        for moment in (self._own_directory, self._database, self._asked):
            self.run_dir = self.folder / moment.__name__
            run = self.start("run", self.site.seed, "--depth", "4", *LOOPBACK, "-o", str(self.output))
            moment(run)
            self.interrupt(run, signal.SIGINT, SOON_S)
            self.assertNotIn("Traceback", run.stderr)
            self.assertEqual(list(self.run_dir.iterdir()), [])
        self.assert_nothing_written()

    def _own_directory(self, run: Child) -> None:
        self._until(run, "run-*")

    def _database(self, run: Child) -> None:
        self._until(run, "run-*/crawlfarm.sqlite")

    def _asked(self, run: Child) -> None:
        self.site.wait_asked("/")

    def _until(self, run: Child, pattern: str) -> None:
        end = time.monotonic() + 30
        while not any(Path(self.run_dir).glob(pattern)):
            self.assertLess(time.monotonic(), end)
            self.assertIsNone(run.process.poll(), run.stderr)
