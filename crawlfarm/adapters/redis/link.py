"""Connections to one Redis: commands pipelined over one, notifications over another.

A command never waits for a server that is away: it fails at once with
:class:`~crawlfarm.errors.Unavailable`, and txredisapi connects again behind it. Importing
this module installs a reactor (txredisapi does), so import it after yours is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import txredisapi
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger

from crawlfarm.config import shown_url
from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable

log = Logger()

CONNECT_S = 3.0
REPLY_S = 10.0
OLDEST = (6, 2)


class NoScript(CrawlfarmError):
    """The server does not have this script (any more): send it whole."""


@dataclass(frozen=True)
class RedisAddress:
    """A ``redis://``, ``rediss://`` or ``redis+sentinel://host,host/service/db`` URL.

    :ivar hosts: the server, or the Sentinels.
    :ivar service: the master's name at the Sentinels; empty without.
    """

    hosts: tuple[tuple[str, int], ...]
    tls: bool
    service: str
    database: int
    username: str = field(repr=False)
    password: str = field(repr=False)
    shown: str

    @classmethod
    def parse(cls, url: str, where: str) -> RedisAddress:
        """:raises ConfigError: naming ``where`` and what is wrong."""
        scheme, _, rest = url.partition("://")
        login, _, place = rest.rpartition("@")
        netloc, _, path = place.partition("?")[0].partition("/")
        sentinel = scheme == "redis+sentinel"
        parts = [p for p in path.split("/") if p]
        service = parts.pop(0) if sentinel and parts else ""
        if sentinel and not service:
            raise ConfigError(f"{where}: {shown_url(url)!r} lacks the name of the master, as in …/mymaster/0")
        try:
            hosts = tuple(_host(part, 26379 if sentinel else 6379) for part in netloc.split(","))
            database = int(parts[0]) if parts else 0
        except ValueError as e:
            raise ConfigError(f"{where}: {shown_url(url)!r} is not a Redis URL: {e}") from e
        username, _, password = login.rpartition(":") if ":" in login else ("", "", login)
        return cls(hosts, scheme == "rediss", service, database, unquote(username), unquote(password), shown_url(url))

    def handshake(self) -> list[tuple[Any, ...]]:
        """The commands that make a new connection usable."""
        commands: list[tuple[Any, ...]] = []
        if self.password:
            commands.append(("AUTH", self.username, self.password) if self.username else ("AUTH", self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        return commands


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("it names no host")
    return parts.hostname, parts.port or port


class _Protocol(txredisapi.RedisProtocol):  # type: ignore[misc]
    """Does its own handshake: a refusal is told and tried again, where txredisapi gives up."""

    link: RedisLink

    def connectionMade(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._begin())

    async def _begin(self) -> None:
        try:
            for command in self.link.address.handshake():
                await self.execute_command(*command)
            if self.link.address.service and (await self.execute_command("ROLE"))[0] != b"master":
                raise Unavailable("the Sentinels named a server that is not the master")
            await self.prepare()
        except (txredisapi.RedisError, Unavailable) as e:
            self.link.refused(e)
            self.transport.loseConnection()
            return
        await super().connectionMade()

    async def prepare(self) -> None:
        info = (await self.execute_command("INFO", "server")).decode()
        self.link.met(dict(line.split(":", 1) for line in info.split("\r\n") if ":" in line))


class _Listening(txredisapi.SubscriberProtocol, _Protocol):  # type: ignore[misc]
    """The connection that hears of changes."""

    async def prepare(self) -> None:
        await self.subscribe(self.link.channel)
        self.link.heard()  # whatever was said while nobody listened

    def messageReceived(self, pattern: Any, channel: Any, message: Any) -> None:
        self.link.heard()


class RedisLink:
    """One Redis server (or the master that Sentinels name).

    :param url: as in the configuration; ``where`` is the variable it stands in.
    :param channel: notifications to listen to; ``changed`` is called for each.
    :ivar run_id: of the server connected to last: another one means that it was restarted
        or replaced, and may have lost its last writes.
    """

    def __init__(
        self, reactor: Any, url: str, where: str, channel: str = "", changed: Callable[[], None] = lambda: None
    ) -> None:
        self.address = RedisAddress.parse(url, where)
        self.where = where
        self.channel = channel
        self.run_id = ""
        self.version = ""
        self._reactor = reactor
        self._changed = changed
        self._problem = f"{where}: nobody answers at {self.address.shown} yet"
        self._handlers: list[Any] = []
        self._sentinels: list[Any] = []
        self._commands: Any = None
        self._meeting: list[Deferred[None]] = []

    def start(self) -> Deferred[None]:
        """Connect; fires when the server has answered, or with the first refusal.

        :raises ConfigError: wrong password, missing right, too old.
        :raises Unavailable: nobody answers there (it is tried on).
        """
        self._commands = self._connect(_Protocol)
        if self.channel:
            self._connect(_Listening)
        usable = DeferredList([handler._connected for handler in self._handlers])
        usable.addCallback(lambda _: self._tell(None))
        met: Deferred[None] = Deferred()
        self._meeting.append(met)
        late = self._reactor.callLater(CONNECT_S, self._nobody, met)
        return met.addBoth(lambda result: (late.cancel() if late.active() else None, result)[1])

    async def stop(self) -> None:
        for handler in (*self._handlers, *self._sentinels):
            await handler.disconnect()

    @property
    def connected(self) -> bool:
        return self._commands is not None and self._commands._factory.size > 0

    def execute(self, *command: Any) -> Deferred[Any]:
        """One command; replies as bytes.

        :raises Unavailable: the server is away, or cannot take writes now.
        """
        return Deferred.fromCoroutine(self._execute(command))

    # --- what the connections tell -----------------------------------------------------

    def met(self, info: dict[str, str]) -> None:
        """A connection is usable. :raises Unavailable: the server cannot be used."""
        self.version = info.get("redis_version", "")
        if tuple(int(n) for n in self.version.split(".")[:2]) < OLDEST:
            raise Unavailable(f"Redis {self.version} is too old, {'.'.join(map(str, OLDEST))} is the oldest")
        if self.run_id not in ("", info["run_id"]):
            log.warn("{where}: another Redis process answers at {shown}", where=self.where, shown=self.address.shown)
        self.run_id = info["run_id"]
        self._problem = ""

    def refused(self, error: Exception) -> None:
        """The server answered, and will not have us."""
        text = f"{self.where}: {self.address.shown} refuses the connection: {error}"
        if text != self._problem:
            self._problem = text
            log.error("{text}", text=text)
        self._tell(ConfigError(text))

    def heard(self) -> None:
        self._changed()

    # --- inside --------------------------------------------------------------------------

    def _connect(self, protocol: type[_Protocol]) -> Any:
        kind = type("Linked", (protocol,), {"link": self})
        options = {"charset": None, "replyTimeout": REPLY_S, "convertNumbers": False}
        if self.address.service:
            # Sentinels speak text; what they say is read by txredisapi itself.
            hosts = self.address.hosts
            sentinel = txredisapi.Sentinel(hosts, connectTimeout=CONNECT_S, replyTimeout=CONNECT_S)
            factory = type(
                "Factory", (txredisapi.SentinelConnectionFactory,), {"protocol": kind, "maxDelay": CONNECT_S}
            )
            handler = sentinel.master_for(self.address.service, factory_class=factory, isLazy=True, **options)
            self._sentinels.append(sentinel)
        else:
            factory = txredisapi.RedisFactory("", None, 1, isLazy=True, **options)
            factory.protocol = kind
            factory.initialDelay = 0.1
            factory.maxDelay = CONNECT_S
            factory.startConnecting(self._endpoint())
            handler = factory.handler
        self._handlers.append(handler)
        return handler

    def _endpoint(self) -> Any:
        host, port = self.address.hosts[0]
        endpoint: Any = HostnameEndpoint(self._reactor, host, port, timeout=CONNECT_S)
        return wrapClientTLS(optionsForClientTLS(host), endpoint) if self.address.tls else endpoint

    async def _execute(self, command: tuple[Any, ...]) -> Any:
        if not self.connected:
            raise Unavailable(self._problem or f"{self.where}: {self.address.shown} does not answer")
        try:
            return await self._commands.execute_command(*command)
        except txredisapi.ResponseError as e:
            text = str(e)
            if text.startswith(("OOM", "MISCONF", "READONLY", "LOADING", "MASTERDOWN", "BUSY", "NOREPLICAS")):
                raise Unavailable(f"{self.where}: {self.address.shown} takes no writes now: {text}") from e
            if text.startswith("NOSCRIPT"):
                raise NoScript(text) from e
            if text.startswith("NOPERM"):
                raise Unavailable(f"{self.where}: the user at {self.address.shown} lacks a right: {text}") from e
            raise
        except txredisapi.RedisError as e:
            raise Unavailable(f"{self.where}: the connection to {self.address.shown} was lost: {e}") from e

    def _nobody(self, met: Deferred[None]) -> None:
        if met in self._meeting:
            self._meeting.remove(met)
            met.errback(Unavailable(f"{self.where}: nobody answers at {self.address.shown}"))

    def _tell(self, error: Exception | None) -> None:
        waiting, self._meeting = self._meeting, []
        for met in waiting:
            met.errback(error) if error is not None else met.callback(None)
