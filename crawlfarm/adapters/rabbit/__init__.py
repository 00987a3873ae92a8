"""The job queue over RabbitMQ.

A job's way: :class:`~crawlfarm.adapters.rabbit.publishing.Publisher` puts it into the quorum
queue and waits for the broker's word; :class:`~crawlfarm.adapters.rabbit.consuming.Intake`
of some master takes it out and settles it. Each has a connection of its own, kept by a
:class:`~crawlfarm.adapters.rabbit.connection.Link`: a broker short of memory stops reading
from those who publish, and acknowledgements must get through all the same.
:class:`~crawlfarm.adapters.rabbit.queue.RabbitQueue` is what the rest of the farm sees;
``topology`` says what is declared.

Importing :mod:`pika`'s Twisted adapter installs a reactor: choose one first.
"""
