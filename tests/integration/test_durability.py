"""``crawlfarm up``: jobs outlive the process that runs them, however it ends."""

from __future__ import annotations

import json
import re
import signal

from tests.support.commands import CommandTests, free_port
from tests.support.gated import GatedSite, tree
from tests.support.processes import Child


class UpTests(CommandTests):
    """A farm on this machine, and its clients."""

    def test_a_job_from_submit_to_resume(self) -> None:
        """``--detach`` prints the id alone; ``status`` and ``cancel`` know it; ``resume`` gets
        the result, as often as asked for, in any form."""
        site = GatedSite(self, tree(), gated=["/gate"])
        self.up()
        job = self.submit_detached(site.seed, 4)
        site.wait_asked("/gate")
        status = json.loads(self.output_of(self.client("status", job)))
        self.assertEqual((status["type"], status["job"], status["state"]), ("progress", job, "running"))
        site.open()
        following = [self.client("resume", job, "-o", name) for name in ("a.json", "b.jsonl", "-")]
        following.append(self.client("submit", site.seed, "--depth", "4", "-o", "c.json"))
        for child in following:
            self.assertEqual(child.wait(), 0, child.stderr)
        truth = site.answer(4)
        result = json.loads((self.folder / "a.json").read_text())
        self.assert_answer(result, truth)
        self.assertEqual(result["job"], job)
        lines = (self.folder / "b.jsonl").read_text().splitlines()
        self.assert_records([json.loads(line) for line in lines], truth)
        self.assert_answer(json.loads(following[2].stdout), truth)
        self.assert_answer(json.loads((self.folder / "c.json").read_text()), truth)
        self.assertEqual(site.asked["/behind/1/1"], 1, "the same question was not asked twice")

        late = self.client("cancel", job)
        self.output_of(late)
        self.assertIn(f"`crawlfarm resume {job} --gateway {self.gateway}`", late.stderr)
        by_default = self.client("resume", job)
        self.output_of(by_default)
        written = self.run_dir / "results" / f"{job}.json"
        self.assertEqual(by_default.stderr.splitlines()[-1], f"result written to {written}")
        self.assertEqual(json.loads(written.read_text()), result)

    def test_cancel(self) -> None:
        """The job ends, its follower hears of it, and what was done is told to both."""
        site = GatedSite(self, tree(), gated=["/gate"])
        self.up()
        following = self.client("submit", site.seed, "--depth", "4", "--id", "mine", "-o", "a.json")
        site.wait_asked("/gate")
        job = self.submit_detached(site.seed, 4)  # the same question joins it
        cancel = self.client("cancel", job)
        self.output_of(cancel)
        self.output_of(following, 1)
        for child in (cancel, following):
            self.assertRegex(child.stderr, r"found +│ +\d+ │\n│ +fetched +│ +[1-9] │\n│ +skipped: cancelled +│ +\d+ │")
        self.assertEqual(self.state(job), "cancelled")
        self.assertFalse((self.folder / "a.json").exists())
        resumed = self.client("resume", job)
        self.output_of(resumed, 1)
        self.assertIn("the job was cancelled", resumed.stderr)

    def test_only_one_farm(self) -> None:
        """On one run directory, and on one port."""
        up = self.up()
        again = self.start("up")
        self.assertEqual(again.wait(), 2)
        self.assertRegex(again.stderr, rf"^crawlfarm: error: the database .* \(process {up.pid}\): .*\n$")
        other = {"CRAWLFARM_RUN_DIR": str(self.folder / "other"), "CRAWLFARM_GATEWAY_LISTEN": self._listen()}
        taken = self.start("up", **other)
        self.assertEqual(taken.wait(), 2)
        self.assertRegex(taken.stderr, r"^crawlfarm: error: CRAWLFARM_GATEWAY_LISTEN: .* the port is in use already\n$")
        self.assertEqual(up.stop(), 0)
        self.assertEqual(up.lines, [json.dumps({"ready": "up", "endpoints": [self.gateway]})])

    def _listen(self) -> str:
        return f"tcp:{self.gateway.rpartition(':')[2]}:interface=127.0.0.1"


class KillTests(CommandTests):
    """kill -9, and started again on the same run directory."""

    def setUp(self) -> None:
        super().setUp()
        self.port = free_port()

    def slow_farm(self) -> Child:
        """It runs one job at a time, so that others wait in the queue."""
        return self.up(port=self.port, CRAWLFARM_SLOTS="1")

    def test_killed_twice(self) -> None:
        """With a client attached, a detached job and a queued one: all finish, with the right
        levels; the client comes back by itself and gets one result; what had ended is still there."""
        before = GatedSite(self, tree())
        site = GatedSite(self, tree(), gated=["/gate"])
        up = self.slow_farm()
        ended = self.submit_detached(before.seed, 3)
        self.output_of(self.client("resume", ended, "-o", "ended.json"))

        attached = self.client("submit", site.seed, "--depth", "4", "-o", "attached.jsonl")
        site.wait_asked("/gate")
        detached = self.submit_detached(site.seed, 5)
        queued = self.submit_detached(site.seed, 3)
        self.assertEqual(self.state(queued), "queued")
        for again in (2, 3):
            up.kill()
            up = self.slow_farm()
            site.wait_asked("/gate", again)
        site.open()

        truths = {detached: site.answer(5), queued: site.answer(3), ended: before.answer(3)}
        for job, truth in truths.items():
            result = json.loads(self.output_of(self.client("resume", job, "-o", "-")))
            self.assert_answer(result, truth)
            self.assertEqual(self.state(job), "done")
        self.output_of(attached)
        lines = (self.folder / "attached.jsonl").read_text().splitlines()
        self.assert_records([json.loads(line) for line in lines], site.answer(4))
        self.assertEqual(attached.stderr.count("Receipt"), 1)
        self.assertEqual(up.stop(), 0)

    def test_a_client_that_nobody_comes_back_to(self) -> None:
        """It says so, and how to get the result later; the job goes on with the next farm."""
        site = GatedSite(self, tree(), gated=["/gate"])
        up = self.slow_farm()
        client = self.client("submit", site.seed, "--depth", "4", "-o", "a.json")
        site.wait_asked("/gate")
        up.kill()
        client.signal(signal.SIGINT)
        self.assertEqual(client.wait(15), 130)
        left, how = client.stderr.splitlines()[-2:]
        self.assertIn("interrupted: ", client.stderr)
        self.assertTrue(left.startswith("left: "), client.stderr)
        known = re.search(rf"`crawlfarm resume (\S+) --gateway {self.gateway}`", how)
        assert known is not None, client.stderr
        self.slow_farm()
        site.open()
        self.output_of(self.client("resume", known[1], "-o", "a.json"))
        self.assert_answer(json.loads((self.folder / "a.json").read_text()), site.answer(4))


class TermTests(CommandTests):
    """SIGTERM and Ctrl-C: said, and left within moments."""

    def test_jobs_are_given_back(self) -> None:
        """Also when the site hangs; the next farm finishes them, however often it happens."""
        site = GatedSite(self, tree(), gated=["/gate"])
        job = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            up = self.up(CRAWLFARM_MAX_ATTEMPTS="2")
            job = job or self.submit_detached(site.seed, 4)
            site.wait_asked("/gate")  # later rounds do not wait: the signal comes at any moment of the start
            up.signal(number)
            self.assertEqual(up.wait(10), 0)
            self.assertEqual(len(up.stderr.splitlines()), 1, up.stderr)
            self.assertTrue(up.stderr.startswith("stopping: "))
        site.open()
        self.up()
        self.assert_answer(json.loads(self.output_of(self.client("resume", job, "-o", "-"))), site.answer(4))
