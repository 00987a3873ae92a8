"""crawlfarm: distributed crawling for people who know Scrapy.

A job is a URL, a depth and options. A client hands it to the gateway
(:mod:`wsgate`), the lock daemon (:mod:`lockd`) makes it a committed row, a master
(:mod:`crawlfarm.master`) leases it and runs a depth-limited spider whose
scheduler is the shared frontier (:mod:`crawlfarm.frontier`), workers
(:mod:`crawlfarm.worker`) take pages of every running job, and what was found goes
back to the client level by level.

The rooms import one way::

    errors <- wire <- core <- adapters <- frontier <- {middlewares, spiders, master, worker, cli}

``wire`` and ``core`` are plain code: no Twisted, no Scrapy, no driver.
"""

__version__ = "0.1.0"
