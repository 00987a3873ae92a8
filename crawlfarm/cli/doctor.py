"""``crawlfarm doctor``: what is configured, what answers, what does not, and what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Coroutine
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from twisted.internet import defer
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool

from crawlfarm.adapters.findings import NOTE, OK, PROBLEM, Finding
from crawlfarm.cli.logs import Logging, printable, without_secrets
from crawlfarm.cli.loop import Interrupts, run_main
from crawlfarm.config import Config
from crawlfarm.errors import CrawlfarmError

_STYLES = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}
_EMBEDDED = "embedded: `crawlfarm up` and `run` have it in their own process"
_ANSWER_S = 3.0
_LISTEN = re.compile(r"^(?P<kind>tcp6?|ssl|tls):(?:port=)?(?P<port>\d+)")


@click.command()
@click.option("--gateway", metavar="URL", help="Ask this gateway; otherwise the one CRAWLFARM_GATEWAY_LISTEN names.")
@click.pass_obj
def doctor(logs: Logging, gateway: str | None) -> int:
    """Look at every configured server, and say what is wrong and what to do about it.

    Exit code 0 if all is well, 1 otherwise.

    \b
    crawlfarm doctor
    """
    config = Config.load()
    if not logs.verbose:
        logging.disable(logging.CRITICAL)  # what the drivers say of it is in the table, in better words
    return run_main(lambda reactor, interrupts: _doctor(reactor, interrupts, config, gateway))


@click.command()
@click.option("--vhost", metavar="NAME", default="/", show_default=True, help="The virtual host to make them in.")
def definitions(vhost: str) -> int:
    """Print the queues and exchanges of the farm, for `rabbitmqctl import_definitions`.

    \b
    crawlfarm definitions --vhost crawlfarm > definitions.json
    """
    import json

    from crawlfarm.adapters.rabbit import topology

    click.echo(json.dumps(topology.definitions(topology.farm(topology.Names()), vhost), indent=2))
    return 0


async def _doctor(reactor: Any, interrupts: Interrupts, config: Config, gateway: str | None) -> int:
    looks = [
        _queue(reactor, config),
        *(
            [_frontier(reactor, url) for url in config.frontier_urls]
            or [_embedded("frontier", "CRAWLFARM_FRONTIER_URL")]
        ),
        _cache(reactor, config),
        _database(reactor, config),
        *_lockd(reactor, config),
        _gateway(reactor, gateway or _gateway_url(config)),
    ]
    found = await interrupts.unless(gatherResults([Deferred.fromCoroutine(_looked(look)) for look in looks]))
    findings = [finding for part in found for finding in part]
    _show(findings)
    return int(any(finding.state == PROBLEM for finding in findings))


async def _looked(look: Coroutine[Any, Any, list[Finding]]) -> list[Finding]:
    """What was found; a defect of ours costs that part alone."""
    try:
        return await look
    except Exception as e:
        return [Finding("doctor", "look", PROBLEM, f"{type(e).__name__}: {e}", "tell its authors")]


def _show(findings: list[Finding]) -> None:
    """A paragraph a part, a line a finding, and below it what to do."""
    console = Console()
    for part in dict.fromkeys(finding.part for finding in findings):
        console.print(Text(_safe(part), style="bold"))
        lines = Table.grid(padding=(0, 1))
        for _ in range(2):
            lines.add_column(no_wrap=True)
        lines.add_column(overflow="fold")
        for f in findings:
            if f.part == part:
                lines.add_row(Text(f"  {f.state}", style=_STYLES[f.state]), Text(_safe(f.what)), Text(_safe(f.found)))
                if f.advice and f.state != OK:
                    lines.add_row("", "", Text(f"→ {_safe(f.advice)}", style=_STYLES[f.state]))
        console.print(lines)


def _safe(text: str) -> str:
    return printable(without_secrets(text))


# --- the parts ------------------------------------------------------------------------


async def _embedded(name: str, variable: str) -> list[Finding]:
    return [Finding(f"{name} ({variable})", "not set", OK, _EMBEDDED)]


async def _queue(reactor: Any, config: Config) -> list[Finding]:
    if not config.broker_url:
        return await _embedded("queue", "CRAWLFARM_BROKER_URL")
    from crawlfarm.adapters.rabbit.inspection import inspect_broker

    return await inspect_broker(reactor, config.broker_url)


async def _frontier(reactor: Any, url: str) -> list[Finding]:
    from crawlfarm.adapters.redis.inspection import inspect_frontier

    return await inspect_frontier(reactor, url)


async def _cache(reactor: Any, config: Config) -> list[Finding]:
    if not config.cache_url:
        return await _embedded("cache", "CRAWLFARM_CACHE_URL")
    from crawlfarm.adapters.redis.inspection import inspect_cache

    return await inspect_cache(reactor, config.cache_url)


async def _database(reactor: Any, config: Config) -> list[Finding]:
    from crawlfarm.adapters.sql.inspection import inspect_file, inspect_server

    if config.database_path is not None:
        return inspect_file(config.database_path)
    found: list[Finding] = await deferToThreadPool(
        reactor, reactor.getThreadPool(), inspect_server, config.database_url
    )
    return found


def _lockd(reactor: Any, config: Config) -> list[Any]:
    if config.embedded():
        return []
    return [_one_lockd(reactor, config, address) for address in config.lockd]


async def _one_lockd(reactor: Any, config: Config, address: str) -> list[Finding]:
    from crawlfarm.adapters.lockd.client import LockdClient
    from crawlfarm.wire.lockd import Ask

    part = "lock daemon (CRAWLFARM_LOCKD)"
    advice = "start it with `crawlfarm lockd` (or `up`), or set CRAWLFARM_LOCKD to where it listens"
    try:
        client = LockdClient(reactor, (address,), secret=config.lockd_secret)
    except CrawlfarmError as e:
        return [Finding(part, "address", PROBLEM, e.message, "set CRAWLFARM_LOCKD right")]
    client.start()
    try:
        await client.connected().addTimeout(_ANSWER_S, reactor)
        await client.call(Ask("no such job", "nobody"))
    except defer.TimeoutError:
        return [Finding(part, "answers", PROBLEM, f"{address}: {client.problem or 'nobody answers'}", advice)]
    except CrawlfarmError as e:
        return [Finding(part, "answers", PROBLEM, f"{address}: {e.message}", advice)]
    finally:
        await client.stop()
    return [Finding(part, "answers", OK, address)]


async def _gateway(reactor: Any, url: str) -> list[Finding]:
    from crawlfarm.client import Client

    part = "gateway (CRAWLFARM_GATEWAY_LISTEN)"
    if not url:
        return [Finding(part, "address", NOTE, "it cannot be told from the setting", "name it: --gateway ws://…")]
    client = None
    try:
        client = Client(reactor, url)
        await client.connect().addTimeout(_ANSWER_S, reactor)
    except (CrawlfarmError, defer.TimeoutError) as e:
        why = e.message if isinstance(e, CrawlfarmError) else "it does not answer"
        advice = "start a farm with `crawlfarm up`, or a gateway with `crawlfarm gateway`"
        return [Finding(part, "answers", PROBLEM, f"{url}: {why}", advice)]
    finally:
        if client is not None:
            await client.close()
    return [Finding(part, "answers", OK, url)]


def _gateway_url(config: Config) -> str:
    found = _LISTEN.match(config.gateway_listen)
    if found is None or int(found["port"]) == 0:
        return ""
    host = "[::1]" if found["kind"] == "tcp6" else "127.0.0.1"
    return f"{'ws' if found['kind'].startswith('tcp') else 'wss'}://{host}:{found['port']}/"
