"""What a test asks RabbitMQ itself, without the management plugin. These calls block."""

from __future__ import annotations

import time
from collections.abc import Callable

import pika

from tests.support.servers.base import ServerFailed

DEADLINE_S = 15.0


def until_counted(url: str, queue: str, *, consumers: int | None = None, ready: int | None = None) -> None:
    """Returns when a queue has so many consumers, and messages that nobody holds.

    :raises ServerFailed: it does not.
    """
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        end = time.monotonic() + DEADLINE_S
        while True:
            found = channel.queue_declare(queue, passive=True).method
            if consumers in (None, found.consumer_count) and ready in (None, found.message_count):
                return
            if time.monotonic() > end:
                raise ServerFailed(
                    f"{queue} has {found.consumer_count} consumers and {found.message_count} messages that wait, "
                    f"not {consumers} and {ready}"
                )
            connection.sleep(0.01)


def on_channel(url: str, work: Callable[[pika.adapters.blocking_connection.BlockingChannel], object]) -> object:
    """What ``work`` returns, given a channel of a connection of its own."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return work(connection.channel())
