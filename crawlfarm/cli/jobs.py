"""Jobs of a running farm: ``submit``, ``resume``, ``status``, ``cancel``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click
from rich.console import Console

from crawlfarm.cli.following import Following
from crawlfarm.cli.loop import Interrupts, run_main
from crawlfarm.cli.options import checked_job, gateway_option, job_options
from crawlfarm.cli.output import Output, default_output
from crawlfarm.config import Config
from crawlfarm.wire.codec import encode_json

Use = Callable[[Any, Any, Interrupts], Awaitable[int]]


@click.command()
@click.argument("url")
@job_options
@gateway_option
@click.option("--detach", is_flag=True, help="Print the job's id and leave; the job goes on.")
@click.option("--id", "client_id", metavar="ID", help="Your own name for the job: the same one never starts it twice.")
def submit(
    url: str,
    depth: str | None,
    scope: str,
    max_pages: str | None,
    output: str | None,
    gateway: str,
    detach: bool,
    client_id: str | None,
) -> int:
    """Give a running farm a job and follow it to its result.

    \b
    crawlfarm submit https://example.com/ --depth 3 -o pages.jsonl
    crawlfarm submit https://example.com/ --depth 3 --detach
    """
    if detach and output:
        raise click.UsageError("--detach leaves before there is a result: `crawlfarm resume JOB -o FILE` gets it.")
    target = None if detach else Output(output or default_output(Config.load()))
    asked = checked_job(
        url,
        depth,
        scope=scope,
        max_pages=max_pages,
        detach=detach,
        stream=target is not None and target.wants_records,
    )

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        job = await client.submit(asked.url, asked.depth, asked.options, id=client_id)
        if target is None:
            click.echo(job.id)
            return 0
        return await _following(reactor, interrupts, target).follow(job, asked.url)

    return _with_client(gateway, use)


@click.command()
@click.argument("job")
@click.option("-o", "--output", metavar="FILE", help="Write the answer: .json, .jsonl, .csv, or - for stdout.")
@gateway_option
def resume(job: str, output: str | None, gateway: str) -> int:
    """Follow a job again, or get the result of one that has ended.

    \b
    crawlfarm resume 1b4e28ba-2fa1-41d2-883f-0016d3cca427 -o pages.csv
    """
    target = Output(output or default_output(Config.load(), job))

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        followed = await client.attach(job, stream=target.wants_records)
        return await _following(reactor, interrupts, target, cancels=False).follow(followed, job)

    return _with_client(gateway, use)


@click.command()
@click.argument("job")
@gateway_option
def status(job: str, gateway: str) -> int:
    """Print where a job stands, as one JSON line.

    \b
    crawlfarm status 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    """

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        click.echo(encode_json(await client.status(job)))
        return 0

    return _with_client(gateway, use)


@click.command()
@click.argument("job")
@gateway_option
def cancel(job: str, gateway: str) -> int:
    """End a job.

    \b
    crawlfarm cancel 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    """

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        await client.cancel(job)
        return 0

    return _with_client(gateway, use)


def _following(reactor: Any, interrupts: Interrupts, target: Output, *, cancels: bool = True) -> Following:

    return Following(reactor, interrupts, Console(stderr=True), target, cancels=cancels)


def _with_client(gateway: str, use: Use) -> int:
    """Connect, use the client, and close it on every way out."""

    async def main(reactor: Any, interrupts: Interrupts) -> int:
        from crawlfarm.client import Client

        client = Client(reactor, gateway)
        try:
            await client.connect()
            return await use(client, reactor, interrupts)
        finally:
            await client.close()

    return run_main(main)
