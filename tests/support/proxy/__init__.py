"""A TCP proxy with faults: delays, throttles, cuts, refuses, or goes silent.

In the test's own reactor::

    proxy = TcpProxy.start(test, to=server.url)
    client = connect(proxy.through(server.url))
    proxy.delay_s = 0.005            # each way
    proxy.cut()

As a process of its own, for a benchmark or where the test's reactor does not run::

    proxy = ProxyChild.start(test, to=server.url, delay_s=0.005)
    proxy.cut()

or ``python -m tests.support.proxy --to 127.0.0.1:6379 --delay-ms 5``.
"""

from tests.support.proxy.child import ProxyChild
from tests.support.proxy.tcp import DOWN, UP, Counts, TcpProxy

__all__ = ["DOWN", "UP", "Counts", "ProxyChild", "TcpProxy"]
