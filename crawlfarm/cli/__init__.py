"""The command line: thin; a command a file.

* :mod:`~.main`: the console script; :mod:`~.commands`: the group, and how errors reach people;
* :mod:`~.compose`: which implementation is behind which port; :mod:`~.process`: a daemon in
  this process, from its start to its stop; :mod:`~.farm`: all of them in one;
* :mod:`~.supervisor`, :mod:`~.fleet`: all of them in processes of their own;
* :mod:`~.meters`, :mod:`~.health`: what a process tells about itself;
* :mod:`~.run`, :mod:`~.up`: farms; :mod:`~.daemons`, :mod:`~.twisted_plugin`: one daemon;
  :mod:`~.jobs`: jobs of a running farm; :mod:`~.doctor`: what is wrong;
* :mod:`~.watch`, :mod:`~.report`, :mod:`~.output`: what people and programs get to see.

People read stderr, programs stdout.
"""
