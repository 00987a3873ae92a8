"""``python -m crawlfarm.adapters.sql``: bring the database of ``CRAWLFARM_DATABASE_URL`` to this program's schema.

Every daemon does so at its start. This is for farms whose daemons may not: run it with
the URL of the schema's owner before a new version starts (``deploy/postgres/roles.sql``).
"""

from __future__ import annotations

import sys

from crawlfarm.adapters.sql.postgres.database import prepare
from crawlfarm.adapters.sql.postgres.session import Session
from crawlfarm.config import Config
from crawlfarm.errors import CrawlfarmError


def main() -> int:
    try:
        config = Config.load()
        if config.database_path is not None:
            sys.stderr.write("CRAWLFARM_DATABASE_URL names no PostgreSQL: a file is migrated when it is opened\n")
            return 2
        session = Session(config.database_url, statement_timeouts=False)
        try:
            applied = prepare(session)
        finally:
            session.close()
    except CrawlfarmError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    sys.stderr.write(f"{session.name}: {', '.join(applied) or 'nothing to do'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
