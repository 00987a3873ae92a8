"""``crawlfarm run``: a farm for one job, gone afterwards."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import click
from rich.console import Console

from crawlfarm.cli import rundir
from crawlfarm.cli.loop import Interrupts, run_main
from crawlfarm.cli.options import Asked, allow_network_option, checked_job, job_options
from crawlfarm.cli.output import Output, kind_of
from crawlfarm.cli.watch import starting
from crawlfarm.config import Config, parse_networks

SAMPLE_DEPTH = 5
_SAMPLE_URL = "http://sample.invalid/"


@click.command()
@click.argument("url", required=False)
@job_options
@allow_network_option
@click.option("--sample", is_flag=True, help="Crawl a small site served by this command itself.")
def run(
    url: str | None,
    depth: str | None,
    scope: str,
    max_pages: str | None,
    output: str | None,
    allow_network: tuple[str, ...],
    sample: bool,
) -> int:
    """Crawl URL and show its levels; everything needed runs in this process.

    \b
    crawlfarm run https://example.com/ --depth 3
    crawlfarm run https://example.com/ --depth 2 --scope host -o pages.csv
    """
    config = Config.load()
    networks = [*config.allow_networks, *parse_networks(",".join(allow_network), "--allow-network")]
    if sample:
        if url is not None:
            raise click.UsageError("--sample brings its own site: give it or a URL, not both.")
        networks += parse_networks("127.0.0.0/8", "--sample")
        url, depth = _SAMPLE_URL, depth or str(SAMPLE_DEPTH)
    asked = checked_job(url, depth, scope=scope, max_pages=max_pages, stream=kind_of(output) != ".json")
    target = Output(config, output)
    own_dir = rundir.own(config)
    config = replace(
        config,
        allow_networks=tuple(networks),
        gateway_listen="tcp:0:interface=127.0.0.1",
        metrics_listen="",
        run_dir=own_dir,
        # Servers that other processes share are not for a farm that is gone in a moment.
        broker_url="",
        frontier_urls=(),
        cache_url="",
        database_url="",
    )
    try:
        return run_main(lambda reactor, interrupts: _run(reactor, interrupts, config, asked, target))
    finally:
        shutil.rmtree(own_dir, ignore_errors=True)


async def _run(reactor: Any, interrupts: Interrupts, config: Config, asked: Asked, target: Output) -> int:
    """Crawl on a farm of its own; with the sample's URL, serve the sample too."""
    interrupts.before_leaving(lambda: shutil.rmtree(config.run_dir, ignore_errors=True))
    console = Console(stderr=True)
    started = starting(console, interrupts)
    # What takes its time is imported when there is something to see.
    from crawlfarm.cli.farm import Farm
    from crawlfarm.cli.following import Following
    from crawlfarm.cli.sample import SampleSite
    from crawlfarm.client import Client

    site = SampleSite(reactor) if asked.url == _SAMPLE_URL else None
    farm = Farm(reactor, config)
    client: Client | None = None
    try:
        seed = await site.start() if site is not None else asked.url
        await farm.start()
        client = Client(reactor, farm.endpoints[0])
        job = await interrupts.unless(client.submit(seed, asked.depth, asked.options))
        started()
        return await Following(reactor, interrupts, console, target).follow(job, seed)
    finally:
        started()
        if client is not None:
            await client.close()
        await farm.stop()
        if site is not None:
            await site.stop()
