"""``scrapy crawl``: Scrapy's own, except that wrong arguments are refused in one line."""

from __future__ import annotations

import argparse
import sys

from scrapy.commands import crawl
from scrapy.spiderloader import get_spider_loader

from crawlfarm.config import parse_networks
from crawlfarm.errors import CrawlfarmError
from crawlfarm.frontier.scheduler import FrontierScheduler

_OURS = (FrontierScheduler, f"{FrontierScheduler.__module__}.{FrontierScheduler.__qualname__}")


class Command(crawl.Command):
    """Looks at the arguments of spiders that can (``check_arguments``) before anything runs."""

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        super().process_options(args, opts)
        assert self.settings is not None
        try:
            parse_networks(self.settings.get("CRAWLFARM_ALLOW_NETWORKS") or "", "CRAWLFARM_ALLOW_NETWORKS")
            for name in args[:1]:
                spider = get_spider_loader(self.settings).load(name)
                check = getattr(spider, "check_arguments", None)
                if check is not None:
                    check(opts.spargs)
                elif (spider.custom_settings or {}).get("SCHEDULER", self.settings.get("SCHEDULER")) in _OURS:
                    _refuse(
                        f"the spider {name!r} is not built on crawlfarm.spiders.base.LevelSpider, and the scheduler of "
                        "these settings takes no other; Scrapy's own is SCHEDULER = 'scrapy.core.scheduler.Scheduler'"
                    )
        except KeyError:
            _refuse(f"there is no spider {args[0]!r}; `scrapy list` names them all")
        except CrawlfarmError as e:
            _refuse(e.message)


def _refuse(why: str) -> None:
    print(f"scrapy crawl: error: {why}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
