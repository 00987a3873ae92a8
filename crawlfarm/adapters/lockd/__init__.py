"""The lock daemon over the network, as its clients see it.

:class:`~.client.LockdClient` is the port's implementation: it keeps one connection
(:class:`~.link.Link`) to the daemon that decides, and sends again what a lost connection
left unanswered.
"""
