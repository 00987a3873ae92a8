"""Embedded stand-ins: the same contracts as the servers', within one process.

What they hold is gone with the process, and nothing may depend on it: a queued job is a
hint (the row of the lock daemon is the truth), a cached answer only saves time.
"""
