"""What a crawl may do on the way to a page: one policy a file.

* :mod:`~.guard`: which addresses may be dialled (a download handler, because only there
  is it known what is dialled);
* :mod:`~.scope`: where a redirect may lead.
"""
