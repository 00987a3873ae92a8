"""Jobs of a running farm: ``submit``, ``resume``, ``status``, ``cancel``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click
from rich.console import Console

from crawlfarm.cli.following import Following
from crawlfarm.cli.logs import printable
from crawlfarm.cli.loop import Interrupts, run_main
from crawlfarm.cli.options import DEFAULT_GATEWAY, checked_job, gateway_option, job_options, output_option
from crawlfarm.cli.output import Output, kind_of
from crawlfarm.cli.report import show_receipt
from crawlfarm.config import Config
from crawlfarm.errors import ConnectionGone
from crawlfarm.wire.client import Cancel, Cancelled, Failed, Request, Result, Resume, Status, Submit
from crawlfarm.wire.codec import decode_request, encode_json

Use = Callable[[Any, Any, Interrupts], Awaitable[int]]


@click.command()
@click.argument("url", required=False)
@job_options
@gateway_option
@click.option("--detach", is_flag=True, help="Print the job's id and leave; the job goes on.")
@click.option("--id", "client_id", metavar="ID", help="Your own name for the job: the same one never starts it twice.")
def submit(
    url: str | None,
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
    stream = not detach and kind_of(output) != ".json"
    asked = checked_job(url, depth, scope=scope, max_pages=max_pages, detach=detach, stream=stream)
    if client_id is not None:
        _check(Submit(client_id, asked.url, asked.depth, asked.options))
    target = None if detach else Output(Config.load(), output)

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        job = await interrupts.unless(client.submit(asked.url, asked.depth, asked.options, id=client_id))
        if target is None:
            click.echo(job.id)
            return 0
        click.echo(f"job {job.id} accepted", err=True)
        return await Following(reactor, interrupts, _stderr(), target, where=_where(gateway)).follow(job, asked.url)

    return _with_client(gateway, use)


@click.command()
@click.argument("job")
@output_option
@gateway_option
def resume(job: str, output: str | None, gateway: str) -> int:
    """Follow a job again, or get the result of one that has ended.

    \b
    crawlfarm resume 1b4e28ba-2fa1-41d2-883f-0016d3cca427 -o pages.csv
    """
    _check(Resume(job))
    target = Output(Config.load(), output, job)

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        followed = await interrupts.unless(client.attach(job, stream=target.wants_records))
        following = Following(reactor, interrupts, _stderr(), target, cancels=False, where=_where(gateway))
        return await following.follow(followed, job)

    return _with_client(gateway, use)


@click.command()
@click.argument("job")
@gateway_option
def status(job: str, gateway: str) -> int:
    """Print where a job stands, as one JSON line.

    \b
    crawlfarm status 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    """

    _check(Status(job))

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        click.echo(encode_json(await interrupts.unless(client.status(job))))
        return 0

    return _with_client(gateway, use)


@click.command()
@click.argument("job")
@gateway_option
def cancel(job: str, gateway: str) -> int:
    """End a job, and say what it had done.

    \b
    crawlfarm cancel 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    """

    _check(Cancel(job))

    async def use(client: Any, reactor: Any, interrupts: Interrupts) -> int:
        match await interrupts.unless(client.cancel(job)):
            case Cancelled(receipt=receipt):
                click.echo("the job is cancelled; until then:", err=True)
                show_receipt(_stderr(), receipt)
            case Result():
                click.echo(
                    f"the job had its result already: `crawlfarm resume {job}{_where(gateway)}` gets it", err=True
                )
            case Failed(error=error):
                click.echo(f"the job had failed already ({error.code}): {printable(error.message)}", err=True)
        return 0

    return _with_client(gateway, use)


def _check(message: Request) -> None:
    """:raises BadInput: a gateway would refuse it."""
    decode_request(encode_json(message))


def _where(gateway: str) -> str:
    return "" if gateway == DEFAULT_GATEWAY else f" --gateway {gateway}"


def _stderr() -> Console:
    return Console(stderr=True)


def _with_client(gateway: str, use: Use) -> int:
    """Connect, use the client, and close it on every way out."""

    async def main(reactor: Any, interrupts: Interrupts) -> int:
        from crawlfarm.client import Client

        client = Client(reactor, gateway)
        try:
            try:
                await interrupts.unless(client.connect())
            except ConnectionGone as e:
                raise ConnectionGone(f"{e.message.rstrip('.')} (is `crawlfarm up` running there?)") from e
            return await use(client, reactor, interrupts)
        finally:
            await client.close()

    return run_main(main)
