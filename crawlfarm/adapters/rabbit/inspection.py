"""A look at a RabbitMQ, for ``crawlfarm doctor``. It declares what the daemons declare."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory

from crawlfarm.adapters.findings import NOTE, OK, PROBLEM, Finding
from crawlfarm.adapters.rabbit import topology
from crawlfarm.adapters.rabbit.broker import VARIABLE, Broker, blame
from crawlfarm.errors import ConfigError, CrawlfarmError

PART = f"queue ({VARIABLE})"
_WITHIN_S = 10.0


async def inspect_broker(reactor: Any, url: str, prefix: str = topology.PREFIX) -> list[Finding]:
    try:
        broker = Broker.at(url)
    except ConfigError as e:
        return [Finding(PART, "address", PROBLEM, e.message, f"set {VARIABLE} right")]
    found: list[Finding] = []
    try:
        await _look(reactor, broker, topology.Names(prefix), found)
    except Exception as e:
        error = blame(e, broker)
        what = "rights" if found else "reachable"
        found.append(Finding(PART, what, PROBLEM, error.message, _advice(error)))
    return found


async def _look(reactor: Any, broker: Broker, names: topology.Names, found: list[Finding]) -> None:
    from crawlfarm.adapters.rabbit.protocol import AmqpConnection, declare, timed

    factory = Factory.forProtocol(lambda: AmqpConnection(broker.parameters(), reactor))
    factory.noisy = False
    connection = await broker.endpoint(reactor).connect(factory)
    try:
        refused = await timed(reactor, connection.opened, _WITHIN_S)
        if refused is not None:
            raise refused
        broker.check(connection.version)
        version = ".".join(map(str, connection.version))
        found.append(Finding(PART, "reachable", OK, broker.shown))
        found.append(Finding(PART, "version", OK, f"RabbitMQ {version}"))
        wanted = topology.farm(names, connection.version)
        counts = {queue.name: await _count(reactor, connection, queue.name) for queue in wanted.queues}
        missing = [name for name, count in counts.items() if count is None]
        await declare(reactor, await connection.open_channel(), wanted)
        found.append(Finding(PART, "rights", OK, "it may declare, bind and use the farm's queues"))
        if missing:
            found.append(Finding(PART, "topology", NOTE, f"{', '.join(missing)} was not there, and is now"))
        else:
            found.append(Finding(PART, "topology", OK, f"{', '.join(counts)}: there, with the right arguments"))
        dead = counts.get(names.dead) or 0
        if dead:
            advice = f"look at the messages in {names.dead}: somebody else publishes here, or an older version did"
            found.append(Finding(PART, "dead letters", PROBLEM, f"{dead} messages that nobody could read", advice))
    finally:
        connection.shut()
        await connection.lost()


async def _count(reactor: Any, connection: Any, name: str) -> int | None:
    """The messages that wait in a queue; ``None``: there is no such queue."""
    from crawlfarm.adapters.rabbit.protocol import timed

    channel = await timed(reactor, connection.channel())
    channel.on_closed.addErrback(lambda _: None)
    try:
        declared = await timed(reactor, channel.queue_declare(name, passive=True))
    except Exception as e:
        if getattr(e, "reply_code", None) == 404:
            return None
        raise
    channel.close()
    return int(declared.method.message_count)


def _advice(error: CrawlfarmError) -> str:
    if isinstance(error, ConfigError):
        return "see what it says; `crawlfarm definitions` prints what an administrator may import"
    return "start it, or set the URL of the one that runs"
