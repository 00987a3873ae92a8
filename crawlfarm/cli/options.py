"""The options that commands share, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from crawlfarm.config import Config, parse_networks
from crawlfarm.core.jobs import job_spec, parse_depth, parse_options
from crawlfarm.errors import BadInput
from crawlfarm.wire.codec import shown
from crawlfarm.wire.jobs import JobOptions

Command = Callable[..., Any]
DEFAULT_GATEWAY = "ws://127.0.0.1:8080/"


def job_options(command: Command) -> Command:
    """Every option of a job, for the commands that start one."""
    for option in (
        output_option,
        click.option("--max-pages", metavar="N", help="Fetch N pages at most."),
        click.option(
            "--scope", metavar="any|host", default="any", help="Which links to follow: any, or the seed's host."
        ),
        click.option("--depth", metavar="N", help="How many levels, 1 to 1000; the seed is the first."),
    ):
        command = option(command)
    return command


def output_option(command: Command) -> Command:
    return click.option(
        "-o", "--output", metavar="FILE", help="Write the answer: .json, .jsonl, .csv, or - for stdout."
    )(command)


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


def with_networks(config: Config, allow_network: tuple[str, ...]) -> Config:
    """The configuration with the networks of ``--allow-network`` besides its own."""
    networks = parse_networks(",".join(allow_network), "--allow-network")
    return replace(config, allow_networks=(*config.allow_networks, *networks))


@dataclass(frozen=True)
class Asked:
    """A checked job, as a client submits it."""

    url: str
    depth: int
    options: JobOptions


def checked_job(
    url: str | None, depth: str | None, *, scope: str, max_pages: str | None, detach: bool = False, stream: bool = False
) -> Asked:
    """The job the options ask for.

    :raises BadInput: naming the option and what is allowed.
    """
    fields: dict[str, Any] = {"scope": scope, "detach": detach, "stream": stream}
    try:
        if max_pages is not None:
            fields["max_pages"] = _whole_number(max_pages)
        options = parse_options(fields)
        # The URL is looked at first: without one, the depth is not what is missing.
        spec = job_spec(url or "", 1 if depth is None else parse_depth(depth), options)
    except BadInput as e:
        raise _in_words_of_the_command_line(e) from e
    if depth is None:
        raise BadInput("--depth is missing; it takes 1 to 1000", path="depth", code="missing_field")
    return Asked(spec.url, spec.depth, options)


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise BadInput(
            f"options.max_pages: {shown(text)} is not a whole number; 1 to 1000000000 is allowed",
            path="options.max_pages",
            code="wrong_type",
        )
    return int(text[:40])  # longer ones are out of range all the same


def _in_words_of_the_command_line(error: BadInput) -> BadInput:
    if error.path == "url":
        return error
    option = "--" + error.path.removeprefix("options.").replace("_", "-")
    return BadInput(f"{option}{error.message.removeprefix(error.path)}", path=error.path, code=error.code)
