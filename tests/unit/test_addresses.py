"""Which addresses may be dialled: public ones, and those that the operator opened."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.addresses import AddressPolicy
from tests.support.examples import examples

PUBLIC = ["93.184.216.34", "1.1.1.1", "223.255.255.254", "2606:2800:220:1:248:1893:25c8:1946", "2a00::1"]
NOT_PUBLIC = {
    "this host": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fdff::1"],
    "shared by carriers": ["100.64.0.1", "100.127.255.255"],
    "link-local": ["169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "febf::1"],
    "site-local": ["fec0::1"],
    "special": ["192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "100::1"],
    "relays": ["192.88.99.1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "5f00::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe"],
    "compatible": ["::127.0.0.1", "::a9fe:a9fe"],
    "translated": ["64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1.1.1.1"],
    "6to4": ["2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:a00:1::"],
    "teredo": ["2001:0:7f00:1::ffff:ffff", "2001:0:4136:e378:8000:63bf:80ff:fffe"],
}
NO_ADDRESSES = [
    "",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.0.0.1:80",
    "[::1]",
    "1.1.1.1 ",
    "１.1.1.1",
]


class AddressTests(SynchronousTestCase):
    def test_public_addresses(self) -> None:
        """May be dialled, and are in no network of the operator."""
        policy = AddressPolicy()
        for address in PUBLIC:
            self.assertTrue(policy.may_dial(address), address)
            self.assertFalse(policy.opened(address), address)

    def test_addresses_that_are_not_public(self) -> None:
        """Are refused, in every form in which one address is written inside another."""
        policy = AddressPolicy()
        for kind, addresses in NOT_PUBLIC.items():
            for address in addresses:
                self.assertFalse(policy.may_dial(address), f"{kind}: {address}")

    def test_public_addresses_inside_others(self) -> None:
        """Are as public as they are by themselves."""
        policy = AddressPolicy()
        for address in ("::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"):
            self.assertTrue(policy.may_dial(address), address)

    def test_what_is_no_address(self) -> None:
        """Is refused, even in a network that is opened: names are resolved before."""
        policy = AddressPolicy([ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")])
        for text in NO_ADDRESSES:
            self.assertFalse(policy.may_dial(text), text)
            self.assertFalse(policy.opened(text), text)

    def test_opened_networks(self) -> None:
        """Open what is in them, embedded forms too, and nothing else."""
        policy = AddressPolicy([ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")])
        for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd12::1"):
            self.assertTrue(policy.may_dial(address) and policy.opened(address), address)
        for address in ("10.2.0.1", "::ffff:10.2.0.1", "fc00::1", "127.0.0.1", "169.254.169.254"):
            self.assertFalse(policy.may_dial(address) or policy.opened(address), address)

    @examples(300)
    @given(st.ip_addresses(v=4))
    def test_embedding_never_opens(self, address: ipaddress.IPv4Address) -> None:
        """No IPv6 form of an address may be dialled where the address itself may not."""
        policy = AddressPolicy()
        if not policy.may_dial(str(address)):
            number = int(address)
            for form in (
                f"::ffff:{address}",
                f"64:ff9b::{address}",
                str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))),
                str(ipaddress.IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF))),
            ):
                self.assertFalse(policy.may_dial(form), form)
