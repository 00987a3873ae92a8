"""``crawlfarm up``: a farm on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import click

from crawlfarm.cli import rundir
from crawlfarm.cli.loop import Interrupts, run_main
from crawlfarm.cli.options import allow_network_option
from crawlfarm.config import Config, parse_networks
from crawlfarm.errors import ConfigError

_NEEDS = {
    "workers": "CRAWLFARM_FRONTIER_URL",
    "masters": "CRAWLFARM_BROKER_URL",
    "gateways": "CRAWLFARM_BROKER_URL",
}


class _Count(click.IntRange):
    name = "whole number"


@click.command()
@click.option("--workers", type=_Count(1, 1000), metavar="N", default=1, help="How many workers.")
@click.option("--masters", type=_Count(1, 1000), metavar="N", default=1, help="How many masters.")
@click.option("--gateways", type=_Count(1, 1000), metavar="N", default=1, help="How many gateways.")
@allow_network_option
def up(workers: int, masters: int, gateways: int, allow_network: tuple[str, ...]) -> int:
    """Run a farm until Ctrl-C; `crawlfarm submit` gives it jobs.

    Accepted jobs are kept in the run directory (CRAWLFARM_RUN_DIR, .run): a farm that was
    stopped or killed goes on with them when it is started again.

    \b
    crawlfarm up --allow-network 127.0.0.0/8
    """
    for name, count in (("workers", workers), ("masters", masters), ("gateways", gateways)):
        if count > 1:
            raise ConfigError(
                f"--{name} {count} needs servers that all {name} share ({_NEEDS[name]}), which this version does "
                f"not have yet: the embedded stand-ins live in one process, with one of each"
            )
    config = Config.load()
    networks = (*config.allow_networks, *parse_networks(",".join(allow_network), "--allow-network"))
    config = replace(config, allow_networks=networks)
    rundir.made(config)
    return run_main(lambda reactor, interrupts: _up(reactor, interrupts, config))


async def _up(reactor: Any, interrupts: Interrupts, config: Config) -> int:
    from crawlfarm.cli.farm import EmbeddedFarm

    farm = EmbeddedFarm(reactor, config)
    await farm.start()
    try:
        print(json.dumps({"ready": "up", "endpoints": farm.endpoints}), flush=True)  # noqa: T201
        await interrupts.wait()
        click.echo("stopping: what is in flight finishes, the rest is kept for the next `crawlfarm up`", err=True)
    finally:
        await farm.stop()
    sys.stdout.flush()
    return 0
