"""What a page costs Redis: ``make bench-frontier``.

One worker without a network: pages are finished in batches of eight as soon as they are
leased, with the links of a generated site. Beside it scrapy-redis' own queue and filter,
as its scheduler calls them, on the same pages.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

import redis
from scrapy import Request, Spider

from crawlfarm.adapters.redis import calls, script
from crawlfarm.core.ports import Child, Finish
from crawlfarm.wire.jobs import JobSpec
from tests.bench.rows import Row, keep, middle, show
from tests.support.bigsite import BigSite
from tests.support.servers.redis import RedisServer

PEER = "scrapy-redis"
BATCH = 8
JOB = "0b0b0b0b-0000-4000-8000-000000000000"
SETTINGS = {"lease_ms": 20_000, "attempts": 3, "host_concurrency": 10**6, "cascade": 2000, "server": ""}


def measured(client: redis.Redis, pages: int, began: float, cpu: float) -> dict[str, float]:
    stats = client.info("commandstats")
    inside = stats.get("cmdstat_evalsha")
    used = [inside] if inside else [v for k, v in stats.items() if k not in ("cmdstat_info", "cmdstat_flushdb")]
    return {
        "calls a page": sum(s["calls"] for s in used) / pages,
        "Redis µs a page": sum(s["usec"] for s in used) / pages,
        "client CPU µs a page": (time.process_time() - cpu) * 1e6 / pages,
        "pages a second": pages / (time.monotonic() - began),
    }


def memory(client: redis.Redis, keys: Iterable[Any]) -> int:
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys)


def ours(client: redis.Redis, site: BigSite, origin: str) -> dict[str, float]:
    """A whole crawl; memory per URL seen at its end, per URL queued when half is found."""
    run = client.register_script(script.source())

    def ask(name: str, **arguments: Any) -> Any:
        return script.unpack(run(keys=["bench:"], args=[name, script.pack({**arguments, **SETTINGS})]))

    urls = [f"{origin}{site.path(i)}" for i in range(site.pages)]
    number = {url: i for i, url in enumerate(urls)}
    links = [[Child(urls[n]) for n in dict.fromkeys(site.links(i))] for i in range(site.pages)]
    opened = calls.opened(JOB, ask("open", **calls.open_arguments(JOB, JobSpec(urls[0], 1000), 1)))
    assert opened.seeding is not None
    finished = [Finish(opened.seeding, "fetched", [Child(urls[0])])]
    pages, queued_bytes = 0, 0.0
    client.config_resetstat()
    began, cpu = time.monotonic(), time.process_time()
    while finished:
        answer = ask("exchange", **calls.exchange_arguments(finished, BATCH, [JOB], None))
        exchanged = calls.exchanged(answer)
        finished = [
            Finish(
                lease.ref,
                "fetched",
                links[number[lease.ref.url]],
                status=200,
                title="a title of some length",
                content_type="text/html",
                bytes=19_000,
                elapsed_ms=40,
            )
            for lease in exchanged.leases
        ]
        pages += len(finished)
    values = measured(client, pages, began, cpu)
    assert pages == site.pages, pages
    seen = list(client.scan_iter(f"bench:{JOB}:u*", count=1000))
    values["bytes a URL seen"] = memory(client, seen) / pages
    # The same job again, as far as its first level of links: everything found is queued.
    client.flushdb()
    opened = calls.opened(JOB, ask("open", **calls.open_arguments(JOB, JobSpec(urls[0], 1000), 2)))
    assert opened.seeding is not None
    ask("exchange", **calls.exchange_arguments([Finish(opened.seeding, "fetched", [Child(urls[0])])], 0, None, None))
    lease = calls.exchanged(ask("exchange", **calls.exchange_arguments([], 1, None, None))).leases[0]
    half = [Child(url) for url in urls[1 : site.pages // 2]]
    ask("exchange", **calls.exchange_arguments([Finish(lease.ref, "fetched", half)], 0, None, None))
    waiting = [k for kind in ("o", "n", "q:*", "r") for k in client.scan_iter(f"bench:{JOB}:{kind}", count=1000)]
    queued_bytes = memory(client, waiting) / len(half)
    values["bytes a URL queued"] = queued_bytes
    return values


def scrapy_redis(client: redis.Redis, site: BigSite, origin: str) -> dict[str, float]:
    """The same pages through scrapy-redis' filter and queue."""
    from scrapy_redis.dupefilter import RFPDupeFilter
    from scrapy_redis.queue import PriorityQueue

    class Site(Spider):
        name = "bench"

        def parse(self, response: Any, **kwargs: Any) -> None: ...

    spider = Site()
    seen = RFPDupeFilter(client, "bench:dupefilter")
    queue = PriorityQueue(client, spider, "bench:requests")
    number = {f"{origin}{site.path(i)}": i for i in range(site.pages)}
    urls = list(number)
    client.config_resetstat()
    began, cpu = time.monotonic(), time.process_time()
    first = Request(urls[0], callback=spider.parse)
    seen.request_seen(first)
    queue.push(first)
    pages, most, queued_bytes = 0, 0, 0.0
    while request := queue.pop():
        pages += 1
        len(queue)  # has_pending_requests
        depth = request.meta.get("depth", 0)
        for n in dict.fromkeys(site.links(number[request.url])):
            child = Request(urls[n], callback=spider.parse, meta={"depth": depth + 1}, priority=-depth - 1)
            if not seen.request_seen(child):
                queue.push(child)
        if pages == site.pages // 8:
            most = len(queue)
            queued_bytes = memory(client, ["bench:requests"]) / most
    values = measured(client, pages, began, cpu)
    values["bytes a URL seen"] = memory(client, ["bench:dupefilter"]) / pages
    values["bytes a URL queued"] = queued_bytes
    return values


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.frontier", description=__doc__)
    parser.add_argument("--pages", type=int, default=20_000)
    parser.add_argument("--peer-pages", type=int, default=4_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    server = RedisServer.start(appendonly=False)
    client = redis.Redis.from_url(server.url)
    ours_runs, peer_runs = [], []
    try:
        for _ in range(args.runs):
            client.flushdb()
            ours_runs.append(ours(client, BigSite(pages=args.pages), "http://site.test:8000"))
            client.flushdb()
            peer_runs.append(scrapy_redis(client, BigSite(pages=args.peer_pages), "http://site.test:8000"))
    finally:
        client.close()
        server.stop()
    rows = []
    for name in ours_runs[0]:
        value, peer = middle([run[name] for run in ours_runs]), middle([run[name] for run in peer_runs])
        rows.append(Row(f"crawlfarm: {name}", round(value, 3), "", PEER, round(value / peer, 3), args.runs, {}))
        rows.append(Row(f"{PEER}: {name}", round(peer, 3), "", PEER, 1.0, args.runs, {}))
    show(f"{BATCH} pages an exchange, 28 links a page, medians of {args.runs} runs", rows)
    print(f"written to {keep('frontier', rows)}")  # noqa: T201


if __name__ == "__main__":
    main()
