"""The lock daemon's port: listens where the configuration says, and lets clients in."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from crawlfarm.adapters.listening import client_endpoint, is_loopback, is_tls, listen
from crawlfarm.config import Config
from crawlfarm.errors import ConfigError
from lockd.peers import Peers
from lockd.protocol import Decides, Limits

_VARIABLE = "CRAWLFARM_LOCKD_LISTEN"


class LockServer:
    """Serves a lock daemon over ``config.lockd_listen``.

    Start it after the daemon, stop it before: what clients had sent is answered then.

    :ivar endpoints: client endpoint strings of where it listens, once started.
    """

    _log = Logger("lockd")

    def __init__(self, reactor: Any, config: Config, daemon: Decides, *, limits: Limits | None = None) -> None:
        self.endpoints: list[str] = []
        self._reactor = reactor
        self._config = config
        self._peers = Peers(reactor, daemon, secret=config.lockd_secret, limits=limits or Limits())
        self._port: Any = None

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._peers)

    def start(self) -> Deferred[None]:
        """:raises ConfigError: it cannot, or should not, listen where the configuration says."""
        return Deferred.fromCoroutine(self._start())

    def stop(self) -> Deferred[None]:
        """Close the port, answer what was asked, and send the clients elsewhere. May be called twice."""
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        where, secret = self._config.lockd_listen, self._config.lockd_secret
        port = await listen(self._reactor, where, self._peers, _VARIABLE)
        open_to_others, tls = not is_loopback(port.getHost()), is_tls(where)
        if open_to_others and not secret and not tls:
            # Nobody was accepted yet: that takes another turn of the reactor.
            await maybeDeferred(port.stopListening)
            raise ConfigError(
                f"{_VARIABLE}: {where!r} is open to other machines, and whoever gets in commands the farm: set "
                "CRAWLFARM_LOCKD_SECRET_FILE, or listen on TLS (ssl:…), or on 127.0.0.1, as in "
                "tcp:8091:interface=127.0.0.1"
            )
        if open_to_others and not secret:
            self._log.warn("whoever can reach {where} commands the farm: TLS hides what is said, no more", where=where)
        self._port = port
        self._peers.start()
        self.endpoints = [client_endpoint(port.getHost(), tls=tls)]
        self._log.info("the lock daemon listens on {address}", address=self.endpoints[0])

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            await self._peers.stop()
