"""Loads the statements kept in the ``.sql`` files beside this module.

A file is a list of queries, each headed by its name and a comment that says what it is
for::

    -- name: put_result
    -- Keep a result in place of any other of this job.
    INSERT INTO ...;

Parameters are ``:named``. The statements keep to what SQLite and PostgreSQL share; those
in ``postgres.sql`` are about its sessions, which SQLite has nothing like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_HEAD = re.compile(r"^-- name: *(?P<name>[a-z_]+) *$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


def parse_queries(text: str) -> dict[str, str]:
    """The statements in ``text`` by name.

    :raises ValueError: a query is there twice, is empty, or says not what it is for.
    """
    queries: dict[str, str] = {}
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=True):
        name, body = head["name"], text[head.end() : end].strip()
        if name in queries:
            raise ValueError(f"the query {name} is there twice")
        if not body.startswith("--"):
            raise ValueError(f"the query {name} has no description")
        statement = _COMMENT.sub("", body).strip().rstrip(";")
        if not statement:
            raise ValueError(f"the query {name} is empty")
        queries[name] = statement
    return queries


def load_queries(name: str) -> Mapping[str, str]:
    """The queries of the file ``<name>.sql``."""
    return parse_queries(resources.files(__package__).joinpath(f"{name}.sql").read_text("utf-8"))
