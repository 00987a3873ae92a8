"""What the farm has at RabbitMQ: every exchange, queue and binding, in this one place.

It is declared from here by every process that connects, and exported from here for an
operator who imports it beforehand (:func:`definitions`). All names begin with a prefix, so
that farms may share a virtual host, and a user with the rights ``^PREFIX\\.`` on configure,
write and read may do everything the farm does.

========================  =======================================================
``PREFIX.jobs``           direct exchange and quorum queue: jobs that wait for a
                          master. No delivery limit: the lock daemon counts attempts.
``PREFIX.dead``           fanout exchange and quorum queue: messages nobody can read,
                          the last :data:`DEAD_KEPT` of them
``PREFIX.ended``          fanout exchange: jobs that ended
``PREFIX.ended.LISTENER``  one queue for each process that listens, gone when it is
========================  =======================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crawlfarm.errors import ConfigError

PREFIX = "crawlfarm"
DEAD_KEPT = 10_000
LISTENER_EXPIRES_S = 300
"""A listener's queue is deleted when nobody has read from it for so long."""
ENDED_TTL_S = 60
"""A listener that is away for longer misses hints: it asks the lock daemon when it is back."""
ENDED_KEPT = 10_000

OLDEST = (3, 8)
"""The first RabbitMQ with quorum queues."""
DELIVERY_LIMITS = (4, 0)
"""From this version a quorum queue has a delivery limit unless told otherwise; earlier ones take a negative limit
for zero."""

_NAME = re.compile(r"(?!amq\.)[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    type: str
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: Mapping[str, str | int] = field(default_factory=dict)
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Binding:
    """From an exchange to a queue."""

    exchange: str
    queue: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """What is declared, in this order."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """What things are called in one farm.

    :raises ConfigError: the prefix is nothing a name may begin with.
    """

    prefix: str = PREFIX

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.prefix):
            raise ConfigError(
                f"{self.prefix!r} cannot be the prefix of queues: letters, digits, '_', '-' and '.' are allowed, "
                "100 at most, and it must not begin with 'amq.'"
            )

    @property
    def jobs(self) -> str:
        """The exchange, the queue and the routing key of jobs."""
        return f"{self.prefix}.jobs"

    @property
    def dead(self) -> str:
        """The exchange and the queue of messages nobody can read."""
        return f"{self.prefix}.dead"

    @property
    def ended(self) -> str:
        """The exchange of ended jobs."""
        return f"{self.prefix}.ended"

    def listener(self, name: str) -> str:
        """The queue of one listener to ended jobs."""
        return f"{self.prefix}.ended.{name}"


def farm(names: Names, version: tuple[int, ...] = OLDEST) -> Topology:
    """What all processes of a farm share, on a server of this version."""
    limit = {"x-delivery-limit": -1} if version >= DELIVERY_LIMITS else {}
    return Topology(
        exchanges=(
            Exchange(names.jobs, "direct"),
            Exchange(names.dead, "fanout"),
            Exchange(names.ended, "fanout"),
        ),
        queues=(
            Queue(names.jobs, {"x-queue-type": "quorum", "x-dead-letter-exchange": names.dead, **limit}),
            Queue(names.dead, {"x-queue-type": "quorum", "x-max-length": DEAD_KEPT}),
        ),
        bindings=(
            Binding(names.jobs, names.jobs, names.jobs),
            Binding(names.dead, names.dead),
        ),
    )


def listener(names: Names, name: str) -> Topology:
    """What one listener to ended jobs has for itself, besides the farm's."""
    queue = Queue(
        names.listener(name),
        {
            "x-queue-type": "classic",
            "x-expires": LISTENER_EXPIRES_S * 1000,
            "x-message-ttl": ENDED_TTL_S * 1000,
            "x-max-length": ENDED_KEPT,
        },
    )
    return Topology(queues=(queue,), bindings=(Binding(names.ended, queue.name),))


def definitions(topology: Topology, vhost: str = "/") -> dict[str, Any]:
    """The topology as RabbitMQ's definitions: dump it as JSON, ``rabbitmqctl import_definitions``."""
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.type,
                "durable": exchange.durable,
                "auto_delete": False,
                "arguments": {},
            }
            for exchange in topology.exchanges
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "type": queue.arguments["x-queue-type"],
                "durable": queue.durable,
                "auto_delete": False,
                "arguments": dict(queue.arguments),
            }
            for queue in topology.queues
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }
