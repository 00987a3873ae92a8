"""``crawlfarm up``: a farm on this machine, until Ctrl-C.

With all servers set, each daemon is a process of its own, kept running from here;
otherwise all are in this process.
"""

from __future__ import annotations

from typing import Any

import click

from crawlfarm.cli import rundir
from crawlfarm.cli.logs import Logging
from crawlfarm.cli.loop import Interrupted, Interrupts, run_main
from crawlfarm.cli.options import allow_network_option, with_networks
from crawlfarm.config import Config
from crawlfarm.errors import ConfigError


class _Count(click.IntRange):
    name = "whole number"


@click.command()
@click.option("--workers", type=_Count(1, 1000), metavar="N", default=1, help="How many workers.")
@click.option("--masters", type=_Count(1, 1000), metavar="N", default=1, help="How many masters.")
@click.option("--gateways", type=_Count(1, 1000), metavar="N", default=1, help="How many gateways.")
@allow_network_option
@click.pass_obj
def up(logging: Logging, workers: int, masters: int, gateways: int, allow_network: tuple[str, ...]) -> int:
    """Run a farm until Ctrl-C; `crawlfarm submit` gives it jobs.

    Accepted jobs are kept in the run directory (CRAWLFARM_RUN_DIR, .run): a farm that was
    stopped or killed goes on with them when it is started again.

    With servers (CRAWLFARM_BROKER_URL, CRAWLFARM_FRONTIER_URL, CRAWLFARM_DATABASE_URL)
    every daemon is a process of its own, any number of each; one that dies is started again.

    \b
    crawlfarm up --allow-network 127.0.0.0/8
    crawlfarm up --workers 3 --masters 2 --gateways 2
    """
    config = with_networks(Config.load(), allow_network)
    missing = config.embedded()
    for name, count in (("workers", workers), ("masters", masters), ("gateways", gateways)):
        if count > 1 and missing:
            raise ConfigError(
                f"--{name} {count} needs servers that all processes share: set {' and '.join(missing)} "
                "(the embedded stand-ins live in one process, with one of each)"
            )
    rundir.made(config)
    if missing:
        return run_main(lambda reactor, interrupts: _in_one_process(reactor, interrupts, config))
    counts = {"gateway": gateways, "lockd": 1, "master": masters, "worker": workers}
    return run_main(lambda reactor, interrupts: _supervised(reactor, interrupts, config, counts, logging))


async def _in_one_process(reactor: Any, interrupts: Interrupts, config: Config) -> int:
    from crawlfarm.cli.farm import Farm
    from crawlfarm.cli.serving import serve

    return await serve(interrupts, Farm(reactor, config))


async def _supervised(
    reactor: Any, interrupts: Interrupts, config: Config, counts: dict[str, int], logging: Logging
) -> int:
    from crawlfarm.cli.fleet import fleet, passed_on
    from crawlfarm.cli.process import STOP_S
    from crawlfarm.cli.serving import say_ready
    from crawlfarm.cli.supervisor import ChildRefused, Supervisor

    specs, stages = fleet(config, counts, logging)

    def say(name: str, line: str) -> None:
        click.echo(passed_on(name, line, logging), err=True)

    supervisor = Supervisor(reactor, specs, stages, say=say, stop_s=STOP_S + 5)
    try:
        await interrupts.unless(supervisor.start())
        endpoints = [endpoint for child in supervisor.children for endpoint in child.endpoints]
        clients = [e for e in endpoints if e.startswith("ws")]
        say_ready("up", clients + [e for e in endpoints if e.startswith("http")])
        await interrupts.wait()
    except Interrupted:
        pass
    except ChildRefused as e:
        raise ConfigError(e.message) from e
    finally:
        say("up", "stopping: each daemon finishes or gives back what it has")
        await supervisor.stop()
    return 0
