"""Implementations of :mod:`crawlfarm.core.ports`; the only room that imports drivers.

* :mod:`~crawlfarm.adapters.memory`: embedded stand-ins that live in this process;
* :mod:`~crawlfarm.adapters.sql`: what must outlive it, in an SQL database.

Drivers are imported late: some of them install a reactor when they are.
"""
