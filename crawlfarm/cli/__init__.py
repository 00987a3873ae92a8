"""The command line: thin; a command a file.

* :mod:`~.main`: the console script; :mod:`~.commands`: the group, and how errors reach people;
* :mod:`~.farm`: puts a whole farm together in one process, on the embedded stand-ins;
* :mod:`~.run`, :mod:`~.up`: farms; :mod:`~.jobs`: jobs of a running farm;
* :mod:`~.watch`, :mod:`~.report`, :mod:`~.output`: what people and programs get to see.

People read stderr, programs stdout.
"""
