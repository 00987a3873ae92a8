"""The gateway: where clients hand in jobs and hear what became of them.

How a message moves through it::

    websocket.py   bytes of a client become a frame; a frame too long is thrown away unread
    service.py     the shell: feeds what happened to the hub, carries out what it says
    hub.py         everything that can happen, and what it leads to
    requests.py    what a client asks for: submit, resume, cancel, status
    presence.py    who is connected, and which submissions keep which jobs alive
    following.py   who follows which job, from where in its log, and what comes next
    answers.py     a stored result as a client gets it
    talks.py       exchanges that need an answer from elsewhere, as generators
    effects.py     what the hub can ask the shell to do

Everything but ``websocket`` and ``service`` is plain code: it is told what happened and
when, and returns effects. It holds these promises:

* whatever a client sends, the answer is a message, and nobody else notices;
* ``accepted`` follows the commit of the job's row;
* each follower of a job gets every entry of its log once and in order, then exactly one
  of ``result``, ``failed`` and ``cancelled``;
* a client that does not read costs a bounded amount of memory, because its part of a log
  is read only when there is room to send it.

The gateway keeps nothing that matters: jobs are rows of the lock daemon, logs are in the
frontier, results in their store. A client may come back to any gateway and go on.
"""
