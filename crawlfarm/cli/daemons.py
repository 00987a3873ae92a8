"""``crawlfarm gateway|lockd|master|worker``: one daemon, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from crawlfarm.cli.loop import Interrupts, run_main
from crawlfarm.cli.options import allow_network_option, with_networks
from crawlfarm.config import Config
from crawlfarm.errors import ConfigError


def _supervised(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--supervised", is_flag=True, hidden=True, help="Stop when stdin closes.")(command)


@click.command()
@_supervised
def gateway(supervised: bool) -> int:
    """Run a gateway: clients hand in jobs here, and hear what became of them.

    \b
    CRAWLFARM_GATEWAY_LISTEN=tcp:8081:interface=127.0.0.1 crawlfarm gateway
    """
    return _run("gateway", Config.load(), supervised)


@click.command()
@_supervised
def lockd(supervised: bool) -> int:
    """Run the lock daemon: it knows every job, and which master has it.

    \b
    CRAWLFARM_LOCKD_LISTEN=tcp:8091:interface=127.0.0.1 crawlfarm lockd
    """
    return _run("lockd", Config.load(), supervised)


@click.command()
@allow_network_option
@_supervised
def master(allow_network: tuple[str, ...], supervised: bool) -> int:
    """Run a master: it takes jobs, crawls them with the workers, and reports.

    \b
    CRAWLFARM_SLOTS=8 crawlfarm master
    """
    return _run("master", with_networks(Config.load(), allow_network), supervised)


@click.command()
@allow_network_option
@_supervised
def worker(allow_network: tuple[str, ...], supervised: bool) -> int:
    """Run a worker: it fetches pages of every job.

    \b
    CRAWLFARM_METRICS_LISTEN=tcp:9101 crawlfarm worker
    """
    return _run("worker", with_networks(Config.load(), allow_network), supervised)


def check_shared(config: Config, kind: str) -> None:
    """Whether a daemon in a process of its own can meet the others.

    :raises ConfigError: naming the variables to set.
    """
    needed = {"worker": ("CRAWLFARM_FRONTIER_URL",), "lockd": ("CRAWLFARM_BROKER_URL", "CRAWLFARM_DATABASE_URL")}
    missing = [name for name in config.embedded() if name in needed.get(kind, (name,))]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: a {kind} in a process of its "
            "own shares servers with the others, and the embedded stand-ins live in one process (`crawlfarm up`)"
        )


def _run(kind: str, config: Config, supervised: bool) -> int:
    check_shared(config, kind)

    async def main(reactor: Any, interrupts: Interrupts) -> int:
        from crawlfarm.cli.process import KINDS
        from crawlfarm.cli.serving import serve, stop_with_stdin

        if supervised:
            stop_with_stdin(reactor, interrupts)
        return await serve(interrupts, KINDS[kind](reactor, config))

    return run_main(main)
