"""The lock daemon: who works on which job, and how every job ends.

How a command moves through the package:

1. It comes to :class:`~lockd.service.LockDaemon` as a message of
   :mod:`crawlfarm.wire.lockd`, from this process or from the network: a frame on a
   connection (:mod:`lockd.protocol`) of a client (:mod:`lockd.sessions`).
2. :class:`~lockd.table.Table` decides at once, in memory, and writes what it changed
   into the open batch of changes (:mod:`lockd.rows`). It does no I/O and has no clock.
3. :class:`~lockd.commit.GroupCommit` hands the batch to :class:`~lockd.store.JobStore`,
   which writes it in one transaction on the database's thread. While one commit runs
   the next batch gathers, so many commands share a commit.
4. Only then the answers leave, and what follows from the batch happens: jobs are
   published, ends are announced, masters hear of cancels, the log is written.

A job is a row from the moment it is accepted until long after it has ended. It is
queued, or running under a lease with a token, or ended. A lease that was not heard of,
or that does not move, is overdue: its job goes to the next master that asks for any.

When a commit fails nobody knows what the disk holds, so the table is thrown away and
read again (:meth:`lockd.service.LockDaemon`): memory and database cannot diverge.
"""
