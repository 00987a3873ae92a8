"""What must outlive the process, in an SQL database.

:func:`~crawlfarm.adapters.sql.database.open_database` gives the one the configuration
names: a file (:mod:`~crawlfarm.adapters.sql.sqlite`) or a server that many processes share
(:mod:`~crawlfarm.adapters.sql.postgres`). The statements are in ``queries/*.sql``, the
schema in ``migrations/*.sql``, the same for both. Whoever works on the database passes
:meth:`~crawlfarm.adapters.sql.database.Database.run` a function of one transaction:

* :mod:`~crawlfarm.adapters.sql.results`: the result store;
* :mod:`lockd.store`: the rows of the lock daemon.
"""
