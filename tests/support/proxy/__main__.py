"""The proxy as a process of its own: ``python -m tests.support.proxy --help``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from tests.support.proxy.tcp import TcpProxy, address_of


class _Control(LineOnlyReceiver):
    """Reads what :class:`ProxyChild` writes."""

    delimiter = b"\n"

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy

    def lineReceived(self, line: bytes) -> None:
        number, verb, *values = json.loads(line)
        if verb == "set":
            self.proxy.delay_s, self.proxy.bytes_per_s = values
        elif verb != "counts":
            getattr(self.proxy, verb)(*values)
        self.proxy.reactor.callLater(0, self._answer, number)

    def _answer(self, number: int) -> None:
        print(json.dumps({"n": number, **dataclasses.asdict(self.proxy.counts)}), flush=True)  # noqa: T201

    def connectionLost(self, reason: Failure = Failure(ConnectionError("lost"))) -> None:  # noqa: B008
        if self.proxy.reactor.running:
            self.proxy.reactor.stop()


def main() -> int:
    from twisted.internet import asyncioreactor

    asyncioreactor.install()
    from twisted.internet import reactor, stdio

    parser = argparse.ArgumentParser(prog="python -m tests.support.proxy", description=__doc__.splitlines()[0])
    parser.add_argument("--to", required=True, type=address_of, metavar="HOST:PORT")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="on loopback; any free one by default")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way")
    parser.add_argument("--bytes-per-s", type=float, help="each way, all connections together")
    parser.add_argument("--control", action="store_true", help="take commands on stdin; end when it closes")
    options = parser.parse_args()
    proxy = TcpProxy(reactor, options.to, delay_s=options.delay_ms / 1000, bytes_per_s=options.bytes_per_s)
    proxy.listen(options.listen)
    if options.control:
        stdio.StandardIO(_Control(proxy), reactor=reactor)
    print(json.dumps({"ready": "proxy", "port": proxy.port}), flush=True)  # noqa: T201
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
