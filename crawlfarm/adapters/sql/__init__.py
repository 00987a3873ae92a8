"""What must outlive the process, in an SQL database.

:class:`~crawlfarm.adapters.sql.database.Database` owns the connection and its thread;
the statements are in ``queries/*.sql``, the schema in ``migrations/*.sql``. Whoever
works on the database passes :meth:`~crawlfarm.adapters.sql.database.Database.run` a
function of one transaction:

* :mod:`~crawlfarm.adapters.sql.results`: the result store;
* :mod:`lockd.store`: the rows of the lock daemon.
"""
