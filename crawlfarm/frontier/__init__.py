"""Scrapy's view of the shared frontier.

How a page moves through a process that fetches: the :class:`~.exchange.Exchange` keeps a
small buffer of leased pages filled in the background; the
:class:`~.scheduler.FrontierScheduler` gives Scrapy's engine a request for each, and takes
its redirects and retries back in between; the spider says how the page ended on its
:class:`~.visit.Visit`; and when everything that came of the request has left the engine,
the page is finished in the next exchange. Scrapy's private names are touched in
:mod:`~.engine` and nowhere else.
"""
