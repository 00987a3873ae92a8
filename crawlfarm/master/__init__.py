"""Masters: each takes jobs from the queue, leases them, crawls, and reports.

:class:`~.daemon.Master` holds the slots and talks to the queue; :class:`~.tenure.Tenure` is
the time of one job in one master's hands, from the lease to the outcome.
"""
