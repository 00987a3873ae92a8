"""From a client's words to a checked job, and the keys it is known by.

The gateway, the command line and the ``site`` spider all come through here, so that
the same words are refused in the same way everywhere.
"""

from __future__ import annotations

import hashlib
from typing import Any

from crawlfarm.core.urls import canonical, check_seed
from crawlfarm.errors import BadInput
from crawlfarm.wire.codec import convert, encode_json, shown
from crawlfarm.wire.jobs import MAX_DEPTH, JobOptions, JobSpec


def parse_depth(value: object) -> int:
    """A depth as a command line gives it.

    :raises BadInput: it is not a whole number from 1 to :data:`MAX_DEPTH`.
    """
    text = str(value).strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise BadInput(
            f"depth: {shown(text)} is not a whole number; 1 to {MAX_DEPTH} is allowed", path="depth", code="wrong_type"
        )
    if text.startswith("-") or len(text) > 9 or not 1 <= int(text) <= MAX_DEPTH:
        raise BadInput(
            f"depth: {shown(text)} is out of range; 1 to {MAX_DEPTH} is allowed", path="depth", code="out_of_range"
        )
    return int(text)


def parse_options(fields: dict[str, Any]) -> JobOptions:
    """:raises BadInput: naming the option and what is allowed."""
    return convert(fields, JobOptions, at="options")


def job_spec(url: str, depth: int, options: JobOptions) -> JobSpec:
    """The job a checked submission asks for.

    :raises InvalidURL: with ``path`` ``url``.
    """
    return JobSpec(url=check_seed(url), depth=depth, scope=options.scope, max_pages=options.max_pages)


def body_digest(url: str, depth: int, options: JobOptions) -> str:
    """Tells whether two submissions under one id are the same."""
    return _digest(encode_json([url, depth, options]))


def flight_key(spec: JobSpec) -> str:
    """The same for two jobs exactly when they ask the same question."""
    return _digest(encode_json([canonical(spec.url), spec.depth, *_answer_options(spec)]))


def cache_key(spec: JobSpec) -> str:
    """The question without its depth: a deeper answer holds every shallower one."""
    return _digest(encode_json([canonical(spec.url), *_answer_options(spec)]))


def _answer_options(spec: JobSpec) -> list[object]:
    return [spec.scope, spec.max_pages, spec.spider]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
