"""``twist crawlfarm-gateway|lockd|master|worker``: the daemons as Twisted plugins.

They need the asyncio reactor: ``twist --reactor=asyncio crawlfarm-worker``. From a checkout,
with ``PYTHONPATH=.:deploy``; an installed crawlfarm brings this file along.
"""

from twisted.application.service import ServiceMaker

_MODULE = "crawlfarm.cli.twisted_plugin"

gateway = ServiceMaker("crawlfarm gateway", f"{_MODULE}.gateway", "A gateway of a crawlfarm.", "crawlfarm-gateway")
lockd = ServiceMaker("crawlfarm lock daemon", f"{_MODULE}.lockd", "The lock daemon of a crawlfarm.", "crawlfarm-lockd")
master = ServiceMaker("crawlfarm master", f"{_MODULE}.master", "A master of a crawlfarm.", "crawlfarm-master")
worker = ServiceMaker("crawlfarm worker", f"{_MODULE}.worker", "A worker of a crawlfarm.", "crawlfarm-worker")
