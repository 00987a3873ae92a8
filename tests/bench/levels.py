"""What exact levels cost: ``make bench-levels``.

One page in 50 takes a second. Two consumers of a frontier, with their concurrency as
shipped, crawl the same site with our frontier, without regard to order, and with a
barrier between levels; the runs alternate. The levels of those that claim to be exact
are checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

from twisted.internet import asyncioreactor

if "twisted.internet.reactor" not in sys.modules:
    asyncioreactor.install()

from twisted.internet.task import react

from crawlfarm.core.frontier import FrontierModel
from crawlfarm.wire.jobs import JobSpec
from tests.bench.rows import Row, keep, middle, show
from tests.bench.variants import BarrierModel, NoOrderModel
from tests.support.answer import Answer
from tests.support.bigsite import BigSite
from tests.support.crawling import crawl, memory_frontier
from tests.support.site import Site

OURS, NO_ORDER, BARRIER = "exact levels", "no order", "barrier between levels"
MODELS: dict[str, type[FrontierModel]] = {OURS: FrontierModel, NO_ORDER: NoOrderModel, BARRIER: BarrierModel}
CONSUMERS = 2
AIMS = {OURS: "at most 1.20", BARRIER: "at least 1.25"}


@dataclass(frozen=True)
class Run:
    wall_s: float
    cpu_s: float


async def one(name: str, spec: JobSpec, truth: Answer) -> Run:
    """One crawl, from nothing to its end."""
    store = memory_frontier(MODELS[name]())
    began, cpu = time.monotonic(), time.process_time()
    found = await crawl(spec, consumers=CONSUMERS, store=store)
    run = Run(time.monotonic() - began, time.process_time() - cpu)
    assert found.receipt.fetched == len(truth.pages), f"{name}: {found.receipt}"
    if name != NO_ORDER:
        assert truth.differences(found.answer) == [] and found.levels == truth.levels, f"{name}: levels differ"
    return run


async def bench(site: BigSite, depth: int, runs: int) -> list[Row]:
    measured: dict[str, list[Run]] = defaultdict(list)
    with Site.of_big(site) as served:
        spec, truth = JobSpec(served.seed, depth, scope="host"), site.answer(served.origin, depth)
        sizes = [sum(page.depth == d for page in truth.pages.values()) for d in range(depth)]
        print(f"{len(truth.pages)} pages; by level: {[size for size in sizes if size]}", flush=True)  # noqa: T201
        await one(OURS, spec, truth)  # what is made once a process is made
        for number in range(runs):
            for name in MODELS:
                run = await one(name, spec, truth)
                measured[name].append(run)
                print(f"run {number + 1}  {name:24} {run.wall_s:7.2f} s", flush=True)  # noqa: T201
    walls = {name: middle([run.wall_s for run in measured[name]]) for name in MODELS}
    return [
        Row(
            name,
            walls[name],
            "s",
            NO_ORDER,
            round(walls[name] / walls[NO_ORDER], 3),
            runs,
            {
                "cpu_s": middle([run.cpu_s for run in measured[name]]),
                "pages_per_s": round(len(truth.pages) / walls[name], 1),
                "levels": "not exact" if name == NO_ORDER else "checked",
                **({"aim": AIMS[name]} if name in AIMS else {}),
            },
        )
        for name in MODELS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.levels", description=__doc__)
    parser.add_argument("--pages", type=int, default=4000)
    parser.add_argument("--fanout", type=int, default=28)
    parser.add_argument("--branches", type=int, default=4)
    parser.add_argument("--depth", type=int, default=40, help="more than the site has: every crawl fetches every page")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    site = BigSite(pages=args.pages, fanout=args.fanout, branches=args.branches, slow_every=50)

    async def run(reactor: object) -> None:
        rows = await bench(site, args.depth, args.runs)
        show(f"one page in 50 takes a second, {CONSUMERS} consumers, medians of {args.runs} alternating runs", rows)
        print(f"written to {keep('levels', rows)}")  # noqa: T201

    react(run)


if __name__ == "__main__":
    main()
