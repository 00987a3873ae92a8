"""The proxy as a process of its own, seen from the test."""

from __future__ import annotations

import itertools
import json
import subprocess
from typing import Any

from tests.support.processes import Child, HasCleanup
from tests.support.proxy.tcp import Counts, address_of, through


class ProxyChild:
    """A proxy in a process of its own, told by lines on its standard input."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.port: int = child.wait_ready()["port"]
        self._numbers = itertools.count(1)

    @classmethod
    def start(
        cls, test: HasCleanup | None = None, *, to: str, delay_s: float = 0.0, bytes_per_s: float | None = None
    ) -> ProxyChild:
        """Start one, to the host and port of a URL; with ``test``, it ends with that test."""
        host, port = address_of(to)
        argv = ["python", "-m", "tests.support.proxy", "--control", "--to", f"{host}:{port}"]
        argv += ["--delay-ms", str(delay_s * 1000), *(["--bytes-per-s", str(bytes_per_s)] if bytes_per_s else [])]
        proxy = cls(Child(argv, stdin=subprocess.PIPE))
        if test is not None:
            test.addCleanup(proxy.stop)
        return proxy

    def through(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        return through(url, self.port)

    def set(self, *, delay_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """The delay each way, and what passes each way a second."""
        self._tell("set", delay_s, bytes_per_s)

    def cut(self) -> None:
        """As :meth:`TcpProxy.cut`; these others likewise."""
        self._tell("cut")

    def refuse(self) -> None:
        self._tell("refuse")

    def listen(self) -> None:
        self._tell("listen")

    def hold(self, *directions: str) -> None:
        self._tell("hold", *directions)

    def resume(self) -> None:
        self._tell("resume")

    @property
    def counts(self) -> Counts:
        """What went through so far."""
        return Counts(**self._tell("counts"))

    def stop(self) -> None:
        """End it."""
        if self.child.process.stdin is not None:
            self.child.process.stdin.close()
        self.child.wait()

    def _tell(self, verb: str, *values: Any) -> dict[str, int]:
        assert self.child.process.stdin is not None
        number = next(self._numbers)
        self.child.process.stdin.write(json.dumps([number, verb, *values]).encode() + b"\n")
        self.child.process.stdin.flush()
        answer: dict[str, int] = json.loads(self.child.wait_line(lambda line: line.startswith(f'{{"n": {number}, ')))
        del answer["n"]
        return answer
