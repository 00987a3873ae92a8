"""Spider arguments (``-a name=value``) as a job. All of them are text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from crawlfarm.core.jobs import job_spec, parse_depth, parse_options
from crawlfarm.errors import BadInput
from crawlfarm.wire.jobs import JobSpec

OPTIONS = ("scope", "max_pages")
"""The job options that change the answer; the others are for clients of a farm."""

NAMES = ("url", "depth", *OPTIONS)


def job_of(arguments: Mapping[str, Any], spider: str) -> JobSpec:
    """The job that the :data:`NAMES` among ``arguments`` ask for.

    :param spider: the name of the spider that is to crawl it.
    :raises BadInput: naming the argument and what is allowed.
    """
    url, depth = arguments.get("url"), arguments.get("depth")
    if not url:
        raise BadInput("url: it is missing; give one such as -a url=https://example.com/", path="url")
    if depth is None:
        raise BadInput("depth: it is missing; give one such as -a depth=3", path="depth", code="missing_field")
    fields = {name: arguments[name] for name in OPTIONS if arguments.get(name) is not None}
    most = fields.get("max_pages")
    if isinstance(most, str) and most.isascii() and most.removeprefix("-").isdigit():
        fields["max_pages"] = int(most[:40])
    spec = job_spec(url, parse_depth(depth), parse_options(fields))
    return msgspec.structs.replace(spec, spider=spider)


def check_known(arguments: Mapping[str, Any]) -> None:
    """Names with an underscore in front are left to others: scrapyd adds one.

    :raises BadInput: there is one that says nothing about a job.
    """
    for name in arguments:
        if name not in NAMES and not name.startswith("_"):
            raise BadInput(
                f"{name}: there is no such argument; known are {', '.join(NAMES)}", path=name, code="unknown_argument"
            )
