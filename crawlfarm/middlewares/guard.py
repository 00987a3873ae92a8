"""The address guard: what is not public, and not opened by the operator, is never dialled.

It sits where connections are made, below redirects, retries and name resolution, so that
no spelling of an address and no answer of a name server goes round it.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response
from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTCP, IReactorTime
from zope.interface import implementer

from crawlfarm.config import parse_networks
from crawlfarm.core.addresses import AddressPolicy
from crawlfarm.errors import BlockedAddress
from crawlfarm.frontier.engine import HTTPHandlerOn
from crawlfarm.frontier.visit import visit_of


@implementer(IReactorTCP, IReactorTime, IReactorPluggableNameResolver)
class GuardedReactor:
    """A reactor as Twisted's endpoints use it, which dials only what the policy allows."""

    def __init__(self, reactor: Any, policy: AddressPolicy) -> None:
        self._reactor = reactor
        self._policy = policy

    def connectTCP(self, host: str, *args: Any, **kwargs: Any) -> Any:
        """:raises BlockedAddress: ``host``, always a literal address here, is not allowed."""
        if not self._policy.may_dial(host):
            raise BlockedAddress("this address is not public and not in CRAWLFARM_ALLOW_NETWORKS")
        return self._reactor.connectTCP(host, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class GuardedHTTPHandler(HTTPHandlerOn):
    """The download handler for ``http`` and ``https``.

    Reads ``CRAWLFARM_ALLOW_NETWORKS``: comma-separated CIDRs.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        from twisted.internet import reactor

        networks = crawler.settings.get("CRAWLFARM_ALLOW_NETWORKS") or ""
        policy = AddressPolicy(parse_networks(networks, "CRAWLFARM_ALLOW_NETWORKS"))
        self.dialler = GuardedReactor(reactor, policy)
        # Kept connections bring the same few peers with page after page.
        self._may_dial = lru_cache(maxsize=4096)(lambda peer: policy.may_dial(str(peer)))
        self._opened = lru_cache(maxsize=4096)(lambda peer: policy.opened(str(peer)))

    async def download_request(self, request: Request) -> Response:
        response = await super().download_request(request)
        peer = response.ip_address
        if peer is not None:
            self._check_peer(request, peer)
        return response

    def _check_peer(self, request: Request, peer: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if not self._may_dial(peer):
            raise BlockedAddress("this address is not public and not in CRAWLFARM_ALLOW_NETWORKS")
        visit = visit_of(request)
        if visit is not None and self._opened(peer):
            visit.own_network = True
