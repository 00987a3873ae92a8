"""What the way to Redis costs: ``make bench-latency``.

One consumer, 64 requests at a time, a private Redis behind a proxy that delays each way by
half of the round trip given; the runs alternate, the levels are checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict

from twisted.internet import asyncioreactor

if "twisted.internet.reactor" not in sys.modules:
    asyncioreactor.install()

from twisted.internet import reactor
from twisted.internet.task import react

from crawlfarm.wire.jobs import JobSpec
from tests.bench.rows import Row, keep, middle, show
from tests.support.bigsite import BigSite
from tests.support.crawling import crawl
from tests.support.proxy import ProxyChild
from tests.support.servers.redis import RedisServer
from tests.support.site import Site

ADDED_MS = (0, 1, 5)
AIMS = {1: "at least 0.95", 5: "at least 0.85"}


async def bench(site: BigSite, depth: int, runs: int) -> list[Row]:
    from crawlfarm.adapters.redis.frontier import RedisFrontier

    speeds: dict[int, list[float]] = defaultdict(list)
    cpus: dict[int, list[float]] = defaultdict(list)
    server = RedisServer.start()
    proxies = {ms: ProxyChild.start(to=server.url, delay_s=ms / 2000) for ms in ADDED_MS}
    try:
        with Site.of_big(site) as served:
            spec, truth = JobSpec(served.seed, depth, scope="host"), site.answer(served.origin, depth)
            for number in range(runs + 1):
                for ms, proxy in proxies.items():
                    frontier = RedisFrontier(reactor, [proxy.through(server.url)])
                    await frontier.start()
                    began, cpu = time.monotonic(), time.process_time()
                    found = await crawl(spec, store=frontier)
                    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
                    await frontier.stop()
                    assert truth.differences(found.answer) == [], f"{ms} ms: levels differ"
                    print(f"run {number}  {ms} ms  {wall_s:6.2f} s", flush=True)  # noqa: T201
                    if number:  # the first makes what is made once a process
                        speeds[ms].append(len(truth.pages) / wall_s)
                        cpus[ms].append(cpu_s)
    finally:
        for proxy in proxies.values():
            proxy.stop()
        server.stop()
    base = middle(speeds[0])
    return [
        Row(
            f"{ms} ms to Redis",
            middle(speeds[ms]),
            "pages/s",
            "0 ms",
            round(middle(speeds[ms]) / base, 3),
            runs,
            {"cpu_s": middle(cpus[ms]), "levels": "checked", **({"aim": AIMS[ms]} if ms in AIMS else {})},
        )
        for ms in ADDED_MS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.latency", description=__doc__)
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--delay-ms", type=int, default=20, help="how long the site thinks about each page")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    async def run(reactor: object) -> None:
        rows = await bench(BigSite(pages=args.pages, delay_ms=args.delay_ms), 40, args.runs)
        show(f"{args.pages} pages of {args.delay_ms} ms, 64 at a time, medians of {args.runs} runs", rows)
        print(f"written to {keep('latency', rows)}")  # noqa: T201

    react(run)


if __name__ == "__main__":
    main()
