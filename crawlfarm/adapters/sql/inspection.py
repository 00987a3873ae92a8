"""A look at the database, for ``crawlfarm doctor``. Nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from crawlfarm.adapters.findings import NOTE, OK, PROBLEM, Finding, clock, wall
from crawlfarm.adapters.sql.migrations import behind
from crawlfarm.adapters.sql.queries import load_queries
from crawlfarm.errors import ConfigError, CrawlfarmError

VARIABLE = "CRAWLFARM_DATABASE_URL"
PART = f"database ({VARIABLE})"


def inspect_file(path: Path) -> list[Finding]:
    """The embedded database. Whoever runs on it has it locked, so it is not opened."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        advice = "set CRAWLFARM_RUN_DIR to a directory of your own"
        return [Finding(PART, "file", PROBLEM, f"{path} cannot be written", advice)]
    there = f"{path}, {path.stat().st_size:,} bytes" if path.exists() else f"{path}, made when it is needed"
    return [Finding(PART, "file", OK, there)]


def inspect_server(url: str) -> list[Finding]:
    """A PostgreSQL; on a thread of its own, for it blocks."""
    from crawlfarm.adapters.sql.postgres.session import Session

    found: list[Finding] = []
    try:
        session = Session(url, statement_timeouts=True)
    except ConfigError as e:
        return [Finding(PART, "address", PROBLEM, e.message, f"set {VARIABLE} right")]
    try:
        _look(session, found)
    except CrawlfarmError as e:
        advice = "see what it says" if isinstance(e, ConfigError) else "start it, or set the URL of the one that runs"
        found.append(Finding(PART, "answers" if found else "reachable", PROBLEM, e.message, advice))
    finally:
        session.close()
    return found


def _look(session: Any, found: list[Finding]) -> None:
    sql = load_queries("postgres")
    version = session.connected().server_version
    found.append(Finding(PART, "reachable", OK, session.name))
    found.append(Finding(PART, "version", OK, f"PostgreSQL {version // 10000}"))
    asked = wall()
    (now,) = session.transact(lambda c: c.fetch(sql["clock"]))
    found.append(clock(PART, now["seconds"], asked, wall()))
    missing = session.transact(lambda c: behind(c, sql["has_notes"]))
    if missing:
        advice = "the first daemon makes it; or `python -m crawlfarm.adapters.sql` with the URL of the owner"
        found.append(Finding(PART, "schema", NOTE, f"{len(missing)} migrations to come", advice))
    else:
        found.append(Finding(PART, "schema", OK, "as this version wants it"))
        found.append(_rights(session.transact(lambda c: c.fetch(sql["missing_rights"]))))
    settings = session.transact(lambda c: c.fetch(sql["durability"]))
    off = [row["name"] for row in settings if row["setting"] == "off"]
    if off:
        advice = f"turn {' and '.join(off)} on in postgresql.conf"
        found.append(Finding(PART, "durability", PROBLEM, f"{', '.join(off)} off: a power cut breaks it", advice))
    else:
        found.append(Finding(PART, "durability", OK, "commits survive a power cut"))
    holders = session.transact(lambda c: c.fetch(sql["who_has_the_place"]))
    found += [Finding(PART, "lock daemon", OK, f"{row['application'] or 'unnamed'} works on it") for row in holders]


def _rights(missing: list[dict[str, Any]]) -> Finding:
    if not missing:
        return Finding(PART, "rights", OK, "it may read and write every table")
    lacks = ", ".join(f"{row['right_name']} on {row['table_name']}" for row in missing)
    return Finding(PART, "rights", PROBLEM, f"it lacks {lacks}", "grant it: deploy/postgres/roles.sql")
