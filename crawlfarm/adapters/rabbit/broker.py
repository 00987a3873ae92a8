"""Where RabbitMQ is, and what its refusals mean to an operator.

:func:`blame` turns whatever a driver raised into one of two errors: ``ConfigError`` where
somebody has to change something, ``Unavailable`` where it passes. Their texts name the
variable and hold neither user name nor password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pika import URLParameters, exceptions
from twisted.internet import defer, error
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS

from crawlfarm.adapters.rabbit.topology import OLDEST
from crawlfarm.config import shown_url
from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable

VARIABLE = "CRAWLFARM_BROKER_URL"
CONNECT_S = 10.0
HEARTBEAT_S = 10
"""Unless the URL says otherwise (``?heartbeat=``). A broken line is noticed after half as much again."""

_RESOURCE = re.compile(r"access to (?P<kind>\w+) '(?P<name>[^']*)'")
_DENIED = 403
_MISSING = 404
_PRECONDITION = 406
_NOT_ALLOWED = 530
_INTERNAL = 541


@dataclass(frozen=True, slots=True)
class Broker:
    """One RabbitMQ, as a URL names it.

    :ivar shown: the URL as it may be shown.
    """

    shown: str
    host: str
    port: int
    vhost: str
    secure: bool
    url: str = field(repr=False)

    @classmethod
    def at(cls, url: str) -> Broker:
        """:raises ConfigError: it is not an ``amqp://`` or ``amqps://`` URL this program can use."""
        try:
            parts = urlsplit(url)
            options = parse_qs(parts.query)
            strayed = "@" in url and "@" not in parts.netloc  # a '/', '?' or '#' in the password
            if parts.scheme not in ("amqp", "amqps") or not parts.hostname or strayed:
                raise ValueError
            if "ssl_options" not in options:
                parameters = URLParameters(url)
        except (ValueError, TypeError):
            # What is wrong may be the password's own characters: it is not repeated.
            raise ConfigError(
                f"{VARIABLE}: it is not a URL of the form amqp://USER:PASSWORD@HOST:PORT/VHOST "
                "(special characters in user, password and virtual host percent-encoded)"
            ) from None
        if "ssl_options" in options:
            raise ConfigError(
                f"{VARIABLE}: ssl_options is not taken. amqps:// checks the server's certificate; "
                "SSL_CERT_FILE names the authorities to trust"
            )
        return cls(
            shown=shown_url(url.partition("?")[0]),
            host=parameters.host,
            port=parameters.port,
            vhost=parameters.virtual_host,
            secure=parts.scheme == "amqps",
            url=url,
        )

    def parameters(self) -> URLParameters:
        """For one connection: a connection changes them."""
        parameters = URLParameters(self.url)
        if parameters.heartbeat is None:
            parameters.heartbeat = HEARTBEAT_S
        parameters.blocked_connection_timeout = None
        parameters.client_properties = {"product": "crawlfarm", "connection_name": "crawlfarm"}
        return parameters

    def endpoint(self, reactor: Any) -> Any:
        """What to connect to."""
        plain: Any = HostnameEndpoint(reactor, self.host, self.port, timeout=CONNECT_S)
        if not self.secure:
            return plain
        from twisted.internet.ssl import optionsForClientTLS

        return wrapClientTLS(optionsForClientTLS(self.host), plain)

    def check(self, version: tuple[int, ...]) -> None:
        """:raises ConfigError: a server of this version lacks what the farm needs."""
        if version and version < OLDEST:
            has, needed = (".".join(map(str, v)) for v in (version, OLDEST))
            raise ConfigError(f"{VARIABLE} ({self.shown}): RabbitMQ {has} is too old: quorum queues came with {needed}")


def blame(problem: BaseException, broker: Broker) -> ConfigError | Unavailable:
    """The problem in an operator's words."""
    found = _blame(problem, broker)
    if found is not problem:
        found.__cause__ = problem
    return found


def _blame(problem: BaseException, broker: Broker) -> ConfigError | Unavailable:
    where = f"{VARIABLE} ({broker.shown})"
    match problem:
        case ConfigError() | Unavailable():
            return problem
        case CrawlfarmError():
            return Unavailable(problem.message)
        case exceptions.ConnectionClosedByBroker():
            return _closed(problem.reply_code, problem.reply_text, where, broker.vhost)
        case exceptions.ChannelClosedByBroker():
            return _channel_closed(problem.reply_code, problem.reply_text, where, broker.vhost)
        case exceptions.IncompatibleProtocolError() | exceptions.ProtocolSyntaxError():
            return Unavailable(f"{where}: whoever answers there does not speak AMQP 0-9-1, or is just starting")
        case exceptions.AMQPHeartbeatTimeout():
            return Unavailable(f"{where}: nothing was heard from RabbitMQ for too long")
        case defer.TimeoutError() | error.TimeoutError():
            return Unavailable(f"{where}: RabbitMQ did not answer in time")
        case error.DNSLookupError():
            return Unavailable(f"{where}: the host {broker.host!r} is not known")
        case error.ConnectError():
            return Unavailable(f"{where}: RabbitMQ cannot be reached: {_words(problem)}")
        case _ if "certificate verify failed" in str(problem) or "VerificationError" in type(problem).__name__:
            return ConfigError(
                f"{where}: RabbitMQ's certificate is not trusted here: it must name the host {broker.host!r}, and "
                "SSL_CERT_FILE names authorities to trust besides the system's"
            )
        case _:
            return Unavailable(f"{where}: the connection to RabbitMQ was lost: {_words(problem)}")


def _closed(code: int, text: str, where: str, vhost: str) -> ConfigError | Unavailable:
    if code == _DENIED:
        return ConfigError(f"{where}: RabbitMQ refuses this user name or password")
    if code == _NOT_ALLOWED and "not found" in text:
        return ConfigError(f"{where}: there is no virtual host {vhost!r}: rabbitmqctl add_vhost makes one")
    if code == _NOT_ALLOWED and "limit" not in text:
        return ConfigError(
            f"{where}: the user may not enter the virtual host {vhost!r}: rabbitmqctl set_permissions gives the right"
        )
    if code in (_NOT_ALLOWED, _INTERNAL):
        return Unavailable(f"{where}: RabbitMQ lets nobody into the virtual host {vhost!r} for the moment")
    return Unavailable(f"{where}: RabbitMQ closed the connection: {code} {text}")


def _channel_closed(code: int, text: str, where: str, vhost: str) -> ConfigError | Unavailable:
    if code == _DENIED:
        found = _RESOURCE.search(text)
        what = f"{found['kind']} {found['name']!r}" if found else "what the farm needs"
        return ConfigError(
            f"{where}: the user has no sufficient right on {what} in the virtual host {vhost!r}: "
            "it needs configure, write and read on the farm's names (rabbitmqctl set_permissions)"
        )
    if code == _PRECONDITION and "inequivalent arg" in text:
        return ConfigError(
            f"{where}: something of that name is there with other arguments; delete it once it is empty ({text})"
        )
    if code == _MISSING:
        return Unavailable(f"{where}: something was deleted, and will be declared again ({text})")
    return Unavailable(f"{where}: RabbitMQ closed the connection: {code} {text}")


def _words(problem: BaseException) -> str:
    reason = getattr(problem, "osError", None)
    text = str(reason or problem).strip().rstrip(".")
    return text or type(problem).__name__
