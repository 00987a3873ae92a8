"""Pages per second of ``crawlfarm run`` beside stock Scrapy: ``make bench-docs``.

Both crawl Debian's ``python3-doc`` from nginx on loopback, three levels, each in a
process of its own, in turns. The whole command is measured, and its crawling alone: the
whole less a run that fetches one page.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.bench.rows import Row, keep, middle, scratch, show
from tests.support import doctrees

OURS, STOCK = "crawlfarm run", "stock Scrapy"


@dataclass(frozen=True)
class Run:
    wall_s: float
    cpu_s: float
    pages: int


def measured(command: list[str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command, and its standard output."""
    began = time.monotonic()
    # Not in the project's directory: its scrapy.cfg is not for stock Scrapy.
    with (
        tempfile.TemporaryDirectory() as here,
        tempfile.TemporaryFile(dir=scratch()) as out,
        tempfile.TemporaryFile(dir=scratch()) as errors,
    ):
        child = subprocess.Popen(command, cwd=here, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        assert child.returncode == 0, f"{command}: {child.returncode}\n{errors.read().decode()}"
        return wall, usage.ru_utime + usage.ru_stime, out.read().decode()


def ours(url: str, depth: int) -> Run:
    """The whole farm, its gateway and its client, in one process."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        output = Path(folder) / "result.json"
        command = [
            str(Path(sys.executable).with_name("crawlfarm")),
            "run",
            url,
            "--depth",
            str(depth),
            "--scope",
            "host",
        ]
        wall, cpu, _ = measured([*command, "--allow-network", "127.0.0.0/8", "-o", str(output)])
        return Run(wall, cpu, json.loads(output.read_text())["receipt"]["fetched"])


def stock(url: str, depth: int) -> Run:
    """Scrapy's own command on a spider that nobody tuned."""
    spider = str(Path(__file__).with_name("stock_spider.py"))
    command = [sys.executable, "-m", "scrapy", "runspider", spider, "-a", f"url={url}", "-a", f"depth={depth}"]
    wall, cpu, out = measured(command)
    return Run(wall, cpu, json.loads(out.splitlines()[-1])["pages"])


def bench(url: str, depth: int, runs: int) -> list[Row]:
    whole: dict[str, list[Run]] = defaultdict(list)
    start: dict[str, list[Run]] = defaultdict(list)
    for number in range(runs):
        for name, crawl in ((OURS, ours), (STOCK, stock)):
            start[name].append(crawl(url, 1))
            run = crawl(url, depth)
            whole[name].append(run)
            line = f"{run.pages} pages in {run.wall_s:.2f} s, CPU {run.cpu_s:.2f} s"
            print(f"run {number + 1}  {name:14} {line}", flush=True)  # noqa: T201
    rates: dict[str, dict[str, float]] = {}
    for name in (OURS, STOCK):
        pages = middle([run.pages for run in whole[name]])
        wall, cpu = (middle([getattr(run, field) for run in whole[name]]) for field in ("wall_s", "cpu_s"))
        wall_1, cpu_1 = (middle([getattr(run, field) for run in start[name]]) for field in ("wall_s", "cpu_s"))
        rates[name] = {
            "whole command, wall": pages / wall,
            "whole command, CPU": pages / cpu,
            "crawling, wall": pages / (wall - wall_1),
            "crawling, CPU": pages / (cpu - cpu_1),
        }
    return [
        Row(
            f"{name}: {what}",
            round(rates[name][what], 1),
            "pages/s",
            STOCK,
            round(rates[name][what] / rates[STOCK][what], 2),
            runs,
            {"pages": whole[name][0].pages},
        )
        for what in rates[OURS]
        for name in (OURS, STOCK)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.docs", description=__doc__)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    if missing := doctrees.missing():
        print(f"not installed: {' '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 1
    with doctrees.DocTrees.start() as trees:
        rows = bench(trees.urls["python"], args.depth, args.runs)
    show(f"python3-doc, {args.depth} levels, medians of {args.runs} alternating runs", rows)
    print(f"written to {keep('docs', rows)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
