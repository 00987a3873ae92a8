"""``scrapy crawl``: Scrapy's own, except that wrong arguments are refused in one line."""

from __future__ import annotations

import argparse
import sys

from scrapy.commands import crawl
from scrapy.spiderloader import get_spider_loader

from crawlfarm.config import parse_networks
from crawlfarm.errors import CrawlfarmError


class Command(crawl.Command):
    """Looks at the arguments of spiders that can (``check_arguments``) before anything runs."""

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        super().process_options(args, opts)
        assert self.settings is not None
        try:
            parse_networks(self.settings.get("CRAWLFARM_ALLOW_NETWORKS") or "", "CRAWLFARM_ALLOW_NETWORKS")
            for name in args[:1]:
                check = getattr(get_spider_loader(self.settings).load(name), "check_arguments", None)
                if check is not None:
                    check(opts.spargs)
        except KeyError:
            _refuse(f"there is no spider {args[0]!r}; `scrapy list` names them all")
        except CrawlfarmError as e:
            _refuse(e.message)


def _refuse(why: str) -> None:
    print(f"scrapy crawl: error: {why}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
