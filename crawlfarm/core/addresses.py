"""Which IP addresses the farm may dial.

Public ones, and those in networks the operator opened. ``ipaddress.is_global`` is not
enough: it says yes to multicast, to the 6to4 relays and to IPv6 forms that embed an IPv4
address, so those are unwrapped or named here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(n)
    for n in (
        "192.88.99.0/24",  # 6to4 relays
        "224.0.0.0/4",
        "240.0.0.0/4",
        "64:ff9b:1::/48",  # local NAT64
        "100::/64",
        "5f00::/16",
        "fec0::/10",
        "ff00::/8",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class AddressPolicy:
    """:param allow: networks that may be dialled though they are not public."""

    def __init__(self, allow: Iterable[Network] = ()) -> None:
        self._allow = tuple(allow)

    def opened(self, address: str) -> bool:
        """Whether it is in a network the operator opened."""
        parsed = _parse(address)
        return parsed is not None and any(
            form.version == net.version and form in net for form in _forms(parsed) for net in self._allow
        )

    def may_dial(self, address: str) -> bool:
        """Whether this literal address may be dialled."""
        parsed = _parse(address)
        if parsed is None:
            return False
        if self.opened(address):
            return True
        return all(_public(form) for form in _forms(parsed))


def _parse(address: str) -> Address | None:
    try:
        return ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None


def _forms(address: Address) -> list[Address]:
    """The address, and every IPv4 address that hides in it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return [low]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return [*address.teredo, address]
    return [address]


def _public(address: Address) -> bool:
    return address.is_global and not any(address.version == n.version and address in n for n in _NEVER_PUBLIC)
