"""The options that commands share, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from crawlfarm.core.jobs import job_spec, parse_depth, parse_options
from crawlfarm.errors import BadInput
from crawlfarm.wire.jobs import JobOptions

Command = Callable[..., Any]
DEFAULT_GATEWAY = "ws://127.0.0.1:8080/"


def job_options(command: Command) -> Command:
    """Every option of a job, for the commands that start one."""
    for option in (
        click.option("-o", "--output", metavar="FILE", help="Write the answer: .json, .jsonl, .csv, or - for stdout."),
        click.option("--max-pages", metavar="N", help="Fetch N pages at most."),
        click.option(
            "--scope", metavar="any|host", default="any", help="Which links to follow: any, or the seed's host."
        ),
        click.option("--depth", metavar="N", help="How many levels, 1 to 1000; the seed is the first."),
    ):
        command = option(command)
    return command


def gateway_option(command: Command) -> Command:
    return click.option(
        "--gateway", metavar="URL", default=DEFAULT_GATEWAY, show_default=True, help="The farm's gateway."
    )(command)


def allow_network_option(command: Command) -> Command:
    return click.option(
        "--allow-network",
        metavar="CIDR",
        multiple=True,
        help="Also crawl addresses in this network, though they are not public (127.0.0.0/8 is this machine).",
    )(command)


@dataclass(frozen=True)
class Asked:
    """A checked job, as a client submits it."""

    url: str
    depth: int
    options: JobOptions


def checked_job(
    url: str, depth: object, *, scope: str, max_pages: str | None, detach: bool = False, stream: bool = False
) -> Asked:
    """The job the options ask for.

    :raises BadInput: naming the option and what is allowed.
    """
    fields: dict[str, Any] = {"scope": scope, "detach": detach, "stream": stream}
    if max_pages is not None:
        fields["max_pages"] = int(max_pages) if max_pages.removeprefix("-").isdecimal() else max_pages
    if depth is None:
        raise BadInput("depth: it is missing; --depth takes 1 to 1000", path="depth", code="missing_field")
    options = parse_options(fields)
    spec = job_spec(url, parse_depth(depth), options)
    return Asked(spec.url, spec.depth, options)
