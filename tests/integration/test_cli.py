"""``crawlfarm run``: one job on a farm of its own, from the command to its output."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

from crawlfarm.wire.pages import PageRecord
from tests.support.commands import CRAWLFARM, LOOPBACK, CommandTests
from tests.support.gated import GatedSite, tree
from tests.support.processes import ROOT
from tests.support.screen import Screen, plain
from tests.support.site import Site

COLUMNS = list(PageRecord.__struct_fields__)


class RunTests(CommandTests):
    """What a run writes is the site's truth, in every form, and nothing else is left of it."""

    def test_every_output(self) -> None:
        """Side by side in one run directory: ``.json``, ``.jsonl``, ``.csv``, stdout and the default."""
        site = Site.of_graph(7, test=self)
        assert site.graph is not None
        depth, scope = site.graph.depth, site.graph.scope
        truth = site.answer()
        names = ["a.json", "b.jsonl", "c.csv", "-", ""]
        asked = ["run", site.seed, "--depth", str(depth), "--scope", scope, *LOOPBACK]
        runs = [self.start(*asked, *(["-o", name] if name else [])) for name in names]
        for run in runs:
            self.assertEqual(run.wait(), 0, run.stderr)
        as_json, as_lines, as_csv, as_stdout, by_default = runs

        self.assert_answer(json.loads((self.folder / "a.json").read_text()), truth)
        self.assertEqual(as_json.stderr.splitlines()[-1], "result written to a.json")
        lines = [json.loads(line) for line in (self.folder / "b.jsonl").read_text().splitlines()]
        self.assert_records(lines, truth)
        self.assertTrue(all(list(line) == COLUMNS for line in lines))
        self.assertEqual(as_lines.stderr.splitlines()[-1], "result written to b.jsonl")
        with (self.folder / "c.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.assert_records(rows, truth)
        self.assertEqual(list(rows[0]), COLUMNS)
        self.assert_answer(json.loads(as_stdout.stdout), truth)
        self.assertNotIn("result written", as_stdout.stderr)
        last = by_default.stderr.splitlines()[-1]
        path = Path(last.removeprefix("result written to "))
        self.assertEqual(path.parent, self.run_dir / "results")
        self.assert_answer(json.loads(path.read_text()), truth)

        for run in (as_json, as_lines, as_csv, by_default):
            self.assertEqual(run.stdout, "")
        self.assertEqual(list(self.run_dir.iterdir()), [self.run_dir / "results"])
        self.assertEqual(list((self.run_dir / "results").iterdir()), [path])
        self.assert_clean(self.folder)

    def test_records(self) -> None:
        """Every column is filled; a broken page has the pages that link to it; no cell is a formula."""
        site = GatedSite(
            self,
            {"/": ["/one", "/two", "/broken"], "/one": ["/two", "/broken"], "/two": ["/broken?x=1"]},
            titles={"/": "  The   seed ", "/one": "=cmd|' /C calc'!A1", "/two": '-1+1, "quoted"'},
        )
        runs = [
            self.start("run", site.seed, "--depth", "3", *LOOPBACK, "-o", f"pages.{kind}") for kind in ("jsonl", "csv")
        ]
        for run in runs:
            self.output_of(run)
        records = {r["url"]: r for r in map(json.loads, (self.folder / "pages.jsonl").read_text().splitlines())}
        self.assert_records(list(records.values()), site.answer(3))
        seed, broken = records[site.seed], records[site.origin + "/broken"]
        self.assertEqual(
            {name: seed[name] for name in COLUMNS if name != "elapsed_ms"},
            {
                "url": site.seed,
                "depth": 0,
                "disposition": "fetched",
                "status": 200,
                "final_url": "",
                "title": "The seed",
                "content_type": "text/html",
                "bytes": len(site._reply("/")[1]),
                "parent": "",
                "linked_from": [],
            },
        )
        self.assertEqual((broken["status"], broken["parent"]), (404, site.seed))
        self.assertEqual(sorted(broken["linked_from"]), [site.seed, site.origin + "/one"])
        self.assertEqual(records[site.origin + "/broken?x=1"]["linked_from"], [site.origin + "/two"])
        self.assertEqual(records[site.origin + "/one"]["title"], "=cmd|' /C calc'!A1")

        with (self.folder / "pages.csv").open(newline="") as file:
            rows = {row["url"]: row for row in csv.DictReader(file)}
        self.assertEqual(rows[site.origin + "/one"]["title"], "'=cmd|' /C calc'!A1")
        self.assertEqual(rows[site.origin + "/two"]["title"], '\'-1+1, "quoted"')
        self.assertEqual(
            sorted(rows[site.origin + "/broken"]["linked_from"].split()), [site.seed, site.origin + "/one"]
        )

    def test_max_pages(self) -> None:
        """The number is exact, the rest is accounted for, and the result says it is not whole."""
        site = GatedSite(self, tree())
        run = self.start("run", site.seed, "--depth", "9", "--max-pages", "7", *LOOPBACK, "-o", "-")
        result = json.loads(self.output_of(run))
        receipt = result["receipt"]
        self.assertEqual((receipt["fetched"], receipt["complete"]), (7, False))
        self.assertEqual(receipt["found"], 7 + receipt["skipped"]["page_limit"])

    def test_seeds_that_lead_nowhere(self) -> None:
        """A seed that does not resolve, refuses, or is not public: a finished job, and why."""
        site = Site.of_graph(1, test=self)
        seeds = {
            "http://nowhere.invalid/": ({"dns": 1}, {}),
            f"http://{site.addresses.refused}/": ({"refused": 1}, {}),
            "http://10.255.255.1/": ({}, {"blocked_address": 1}),
            "http://[::ffff:10.0.0.1]/": ({}, {"blocked_address": 1}),
        }
        runs = [self.start("run", seed, "--depth", "3", *LOOPBACK, "-o", "-") for seed in seeds]
        runs.append(self.start("run", site.seed, "--depth", "3", "-o", "-"))
        for run, (failed, skipped) in zip(runs, [*seeds.values(), ({}, {"blocked_address": 1})], strict=True):
            result = json.loads(self.output_of(run))
            expected = {"found": 1, "fetched": 0, "failed": failed, "skipped": skipped, "complete": True}
            self.assertEqual(result["receipt"], expected)
            self.assertEqual([len(level) for level in result["levels"]], [1, 0, 0])
            self.assertEqual("--allow-network CIDR" in run.stderr, bool(skipped))
        self.assertEqual(site.stats()["total"], 0)

    def test_a_reader_that_leaves(self) -> None:
        """``-o - | head``: no traceback, nothing left."""
        site = GatedSite(self, tree())
        argv = [CRAWLFARM, "run", site.seed, "--depth", "2", *LOOPBACK, "-o", "-"]
        self.output_of(self.start_other(["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *argv]), 1)
        self.assertEqual(list(self.run_dir.iterdir()), [])

    def test_a_stdout_that_takes_nothing(self) -> None:
        """Full: the result is rescued. Closed: that is known before the crawl."""
        site = GatedSite(self, tree())
        argv = [CRAWLFARM, "run", site.seed, "--depth", "2", *LOOPBACK, "-o", "-"]
        closed = self.start_other(["sh", "-c", '"$@" >&-', "sh", *argv])
        self.output_of(closed, 2)
        self.assertEqual(closed.stderr, "crawlfarm: error: output: stdout is closed, so - cannot be written\n")
        self.assertEqual(site.asked["/"], 0)
        full = self.start_other(["sh", "-c", '"$@" >/dev/full', "sh", *argv])
        self.output_of(full, 1)
        self.assertIn("'-' cannot be written: No space left on device; the result is in ", full.stderr.splitlines()[-1])
        self.assert_answer(json.loads(Path(full.stderr.split()[-1]).read_text()), site.answer(2))

    def test_output_that_became_unwritable(self) -> None:
        """What was found is not thrown away with the directory it was to go to."""
        site = GatedSite(self, tree(), gated=["/gate"])
        folder = self.folder / "away"
        folder.mkdir()
        run = self.start("run", site.seed, "--depth", "3", *LOOPBACK, "-o", "away/pages.jsonl")
        site.wait_asked("/gate")
        folder.rmdir()
        site.open()
        self.output_of(run, 1)
        message = run.stderr.splitlines()[-1]
        self.assertIn("output: 'away/pages.jsonl' cannot be written: No such file or directory", message)
        rescued = Path(message.rpartition(" ")[2]).read_text().splitlines()
        self.assert_records([json.loads(line) for line in rescued], site.answer(3))


class ProgressTests(CommandTests):
    """People see what happens while it does."""

    def test_plain_lines(self) -> None:
        """Not on a terminal: a line a second, also while nothing comes."""
        site = GatedSite(self, tree(), gated=["/gate"])
        run = self.start("run", site.seed, "--depth", "3", *LOOPBACK, merged=True)
        for n in (2, 3):
            line = run.wait_line(lambda line, n=n: line.endswith(f", {n} s"))
            self.assertRegex(
                line, r"^running: 4 pages, level 1, \d/s, 1 in flight, 0 queued, 0 failed, 0 skipped, \d s$"
            )
        site.open()
        output = self.output_of(run)
        self.assertRegex(output, r"\n.*found +│ +\d+ ")
        self.assertRegex(output, r"complete +│ yes")

    def test_live_view(self) -> None:
        """On a terminal: pages, depth, rate, in flight while it runs; then nothing of it is left."""
        site = GatedSite(self, tree(), gated=["/gate"])
        code = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
        argv = [sys.executable, "-c", code, CRAWLFARM, "run", site.seed, "--depth", "3", *LOOPBACK]
        run = self.start_other(argv, TERM="xterm-256color")
        run.wait_line(lambda line: site.seed in plain(line))
        frame = plain(run.wait_line(lambda line: " 4 pages" in plain(line)))
        self.assertRegex(frame, r"^━+ +4 pages  level 1  \d/s  1 in flight  0 queued  \d s")
        site.open()
        screen = Screen()
        screen.feed(self.output_of(run))
        shown = "\n".join(screen.lines)
        self.assertNotIn("in flight", shown)
        self.assertNotIn("starting", shown)
        self.assertTrue(screen.lines[0].startswith("Levels of"), shown)
        self.assertTrue(screen.lines[-1].startswith("result written to"), shown)
        self.assertFalse(screen.cursor_hidden)


class SampleTests(CommandTests):
    """The first thing a new user types."""

    def test_sample(self) -> None:
        """``crawlfarm run --sample``, and ``make run``: a table, a receipt, a result."""
        environ = {name: None for name in os.environ if name.startswith(("MAKE", "MFLAGS"))}
        # -o: the environment these tests run in is not to be set up again.
        make = ["make", "-C", str(ROOT), "--no-print-directory", "-o", ".venv/.run-installed", "run", "DEPTH=2"]
        runs = [self.start("run", "--sample"), self.start_other(make, **environ)]
        for run, deepest in zip(runs, (4, 1), strict=True):
            self.output_of(run)
            path = Path(run.stderr.splitlines()[-1].removeprefix("result written to "))
            result = json.loads(path.read_text())
            self.assertEqual([len(level) for level in result["levels"]], [1, 7, 35, 15, 7][: deepest + 1])
            self.assertIn("http://127.0.0.1:", result["levels"][deepest][-1])
            self.assertIn("Receipt", run.stderr)
