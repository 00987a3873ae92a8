"""Listening where an endpoint string of the configuration says, with errors that name the setting."""

from __future__ import annotations

import errno
import ipaddress
from typing import Any

from twisted.internet import address, error
from twisted.internet.endpoints import serverFromString

from crawlfarm.errors import ConfigError

_TLS = ("ssl", "tls")


async def listen(reactor: Any, where: str, factory: Any, variable: str) -> Any:
    """The port, an ``IListeningPort``, bound as ``where`` says.

    :param variable: the setting that ``where`` comes from.
    :raises ConfigError: that is no endpoint, or it cannot be had.
    """
    try:
        endpoint = serverFromString(reactor, where)  # type: ignore[no-untyped-call]
        return await endpoint.listen(factory)
    except error.CannotListenError as e:
        at = f"{e.interface or '*'}:{e.port}"
        raise ConfigError(f"{variable}: cannot listen on {at}: {_reason(e)}") from e
    except Exception as e:  # each kind of endpoint has its own for what it cannot use
        raise ConfigError(f"{variable}: {where!r} is not an endpoint such as tcp:8091:interface=127.0.0.1 ({e})") from e


def is_tls(where: str) -> bool:
    """Whether a server's endpoint string is one of TLS."""
    return where.partition(":")[0].strip() in _TLS


def is_loopback(host: Any) -> bool:
    """Whether only this machine reaches a port with this ``getHost()``."""
    if isinstance(host, address.IPv4Address | address.IPv6Address):
        return ipaddress.ip_address(host.host.partition("%")[0]).is_loopback
    return isinstance(host, address.UNIXAddress)


def client_endpoint(host: Any, *, tls: bool = False) -> str:
    """A client's endpoint string for a port with this ``getHost()``."""
    if isinstance(host, address.IPv4Address | address.IPv6Address):
        escaped = host.host.replace(":", "\\:")
        return f"{'tls' if tls else 'tcp'}:{escaped}:{host.port}"
    if isinstance(host, address.UNIXAddress):
        name = host.name or b""
        return f"unix:{name if isinstance(name, str) else name.decode(errors='surrogateescape')}"
    return str(host)


def _reason(refused: error.CannotListenError) -> str:
    cause = refused.socketError
    if getattr(cause, "errno", None) == errno.EADDRINUSE:
        return "the port is in use already"
    return getattr(cause, "strerror", None) or str(cause)
