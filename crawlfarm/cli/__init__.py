"""The command line: thin; a command a file.

* :mod:`~.main`: the group, and what every command shares;
* :mod:`~.farm`: puts a whole farm together in one process, on the embedded stand-ins;
* :mod:`~.run`, :mod:`~.up`: farms; :mod:`~.jobs`: jobs of a running farm;
* :mod:`~.watch`, :mod:`~.report`, :mod:`~.output`: what people and programs get to see.

People read stderr, programs stdout.
"""
