"""The ``crawlfarm`` command: the group, and how errors reach people.

Exit codes: 0 with a result, 1 when the job failed, 2 on wrong usage, 130 when interrupted.
"""

from __future__ import annotations

import click

from crawlfarm import __version__
from crawlfarm.cli.daemons import gateway, lockd, master, worker
from crawlfarm.cli.doctor import definitions, doctor
from crawlfarm.cli.jobs import cancel, resume, status, submit
from crawlfarm.cli.logs import Logging, begin_logging, printable
from crawlfarm.cli.run import run
from crawlfarm.cli.up import up
from crawlfarm.errors import BadInput, ConfigError, CrawlfarmError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="crawlfarm %(version)s")
@click.option("-v", "--verbose", count=True, help="Log more: -v what happens to jobs, -vv everything.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Log lines as text, or as one JSON object each.",
)
@click.pass_context
def crawlfarm(context: click.Context, verbose: int, log_format: str) -> None:
    """Crawl a site level by level, on one machine or many.

    \b
    crawlfarm run https://example.com/ --depth 3
    """
    context.obj = Logging(verbose, log_format == "json")
    begin_logging(context.obj.level, as_json=context.obj.as_json)


for command in (run, up, submit, resume, status, cancel, gateway, lockd, master, worker, doctor, definitions):
    crawlfarm.add_command(command)


def invoke() -> int:
    """Run the command that the process was started with; its exit code."""
    try:
        code = crawlfarm.main(prog_name="crawlfarm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        code = 2
    except click.UsageError as e:
        _complain(_usage(e))
        code = 2
    except click.ClickException as e:
        _complain(e.format_message())
        code = e.exit_code
    except click.Abort:
        code = 130
    except CrawlfarmError as e:
        _complain(e.message)
        code = 2 if isinstance(e, BadInput | ConfigError) else 1
    return code if isinstance(code, int) else 0


def _usage(error: click.UsageError) -> str:
    """What is wrong, and where to read what is right."""
    text = error.format_message().strip().rstrip(".")
    if not text.startswith("--"):
        text = text[:1].lower() + text[1:]
    return f"{text} (see `{error.ctx.command_path if error.ctx else 'crawlfarm'} --help`)"


def _complain(text: str) -> None:
    click.echo(f"crawlfarm: error: {printable(text)}", err=True)
