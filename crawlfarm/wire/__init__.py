"""The only definitions of what goes over a wire or into a store.

Each message is a frozen :class:`msgspec.Struct`, decoded once at the edge:

* :mod:`~crawlfarm.wire.jobs`: what a job is, as everybody passes it on;
* :mod:`~crawlfarm.wire.pages`: page records and the event log of a job;
* :mod:`~crawlfarm.wire.client`: the websocket protocol ``crawlfarm.v1``;
* :mod:`~crawlfarm.wire.queue`: what travels through the job queue;
* :mod:`~crawlfarm.wire.lockd`: the commands of the lock daemon;
* :mod:`~crawlfarm.wire.codec`: bytes to messages, with errors that name the place.

Nothing here does I/O or imports Twisted, Scrapy or a driver.
"""
