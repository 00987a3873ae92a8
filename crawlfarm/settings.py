"""The Scrapy settings of the bundled project.

What is off is off for a reason: telnet, remote control and the handlers for other schemes
would open doors; cookies, meta refresh, offsite and depth middlewares decide what the
frontier decides; proxies from request meta go round the address guard.
"""

from crawlfarm import __version__
from crawlfarm.config import Config

_config = Config.load()

BOT_NAME = "crawlfarm"
SPIDER_MODULES = ["crawlfarm.spiders"]
COMMANDS_MODULE = "crawlfarm.cli.scrapy_commands"
USER_AGENT = f"crawlfarm/{__version__}"

SCHEDULER = "crawlfarm.frontier.scheduler.FrontierScheduler"
CRAWLFARM_FRONTIER_URL = ",".join(_config.frontier_urls)
CRAWLFARM_ALLOW_NETWORKS = ",".join(map(str, _config.allow_networks))
CRAWLFARM_PAGE_LEASE_S = _config.timings.page_lease_s
CRAWLFARM_PAGE_ATTEMPTS = _config.page_attempts
CRAWLFARM_HOST_CONCURRENCY = _config.host_concurrency

TWISTED_REACTOR = "twisted.internet.asyncioreactor.AsyncioSelectorReactor"
# How many requests one host gets at a time is the frontier's business, for all processes
# together; Scrapy only bounds what this process does.
CONCURRENT_REQUESTS = 64
CONCURRENT_REQUESTS_PER_DOMAIN = 64
CONCURRENT_ITEMS = 1
DOWNLOAD_DELAY = 0
DOWNLOAD_TIMEOUT = 30
DOWNLOAD_MAXSIZE = 16 * 1024 * 1024
DOWNLOAD_WARNSIZE = 0
RETRY_TIMES = 2
RETRY_GIVE_UP_LOG_LEVEL = "DEBUG"
REDIRECT_MAX_TIMES = 20

DOWNLOAD_HANDLERS = {
    "http": "crawlfarm.middlewares.guard.GuardedHTTPHandler",
    "https": "crawlfarm.middlewares.guard.GuardedHTTPHandler",
    "data": None,
    "file": None,
    "ftp": None,
    "s3": None,
}
DOWNLOADER_MIDDLEWARES = {
    "crawlfarm.middlewares.scope.ScopeMiddleware": 90,
    "crawlfarm.middlewares.redirect.WebRedirectMiddleware": 600,
    "scrapy.downloadermiddlewares.redirect.RedirectMiddleware": None,
    "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,
}
SPIDER_MIDDLEWARES = {
    "scrapy.spidermiddlewares.depth.DepthMiddleware": None,
    "scrapy.spidermiddlewares.httperror.HttpErrorMiddleware": None,
    "scrapy.spidermiddlewares.urllength.UrlLengthMiddleware": None,
}
# Off by their settings as well; here so that they are not even imported.
EXTENSIONS = {
    "scrapy.extensions.remote_control.RemoteControl": None,
    "scrapy.extensions.telnet.TelnetConsole": None,
}
COOKIES_ENABLED = False
HTTPPROXY_ENABLED = False
METAREFRESH_ENABLED = False
ROBOTSTXT_OBEY = False
REMOTE_CONTROL_ENABLED = False
TELNETCONSOLE_ENABLED = False
LOG_LEVEL = "INFO"
