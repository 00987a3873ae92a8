"""PostgreSQL 12 or later, for any number of processes.

* :mod:`~crawlfarm.adapters.sql.postgres.database`: what the rest of the program has;
* :mod:`~crawlfarm.adapters.sql.postgres.session`: one connection, made again when it is
  lost, and who may be the lock daemon;
* :mod:`~crawlfarm.adapters.sql.postgres.statements`: from our queries to the driver's;
* :mod:`~crawlfarm.adapters.sql.postgres.errors`: from its errors to words for an operator.
"""

from crawlfarm.adapters.sql.postgres.database import PostgresDatabase

__all__ = ["PostgresDatabase"]
