"""Decisions in plain code: what happens takes ``now`` and says what to do.

* :mod:`~crawlfarm.core.urls`: what may be crawled, a page's identity, scope;
* :mod:`~crawlfarm.core.addresses`: which IP addresses may be dialled;
* :mod:`~crawlfarm.core.jobs`: a client's words to a checked job, and its keys;
* :mod:`~crawlfarm.core.frontier`: the frontier, as an executable specification;
* :mod:`~crawlfarm.core.levels`: a job's log to levels, receipt and records;
* :mod:`~crawlfarm.core.backoff`: when to try again;
* :mod:`~crawlfarm.core.ports`: the interfaces adapters implement.
"""
