"""The spiders of the project: the depth-limited :class:`~.site.SiteSpider`, and the base
class for a user's own."""
