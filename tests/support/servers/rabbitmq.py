"""A private RabbitMQ.

::

    url = rabbitmq_server().fresh_vhost(self)     # an empty virtual host with a user of its own
    server = RabbitServer.start(self)             # a server of its own, to restart and kill

It is run by its own script, without Debian's wrapper, which would change the user. What
``rabbitmqctl`` does in a second goes through :meth:`RabbitServer.eval` in milliseconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tests.support import packages
from tests.support.processes import HasCleanup
from tests.support.servers.base import HOST, Once, Server, ServerFailed, free_ports, installed
from tests.support.servers.rabbitmq_remote import RemoteRabbit

VARIABLE = "CRAWLFARM_TEST_RABBITMQ_URL"
USER = "crawlfarm"

_CONTROL = Path(__file__).with_name("control.erl")
_HELLO = b"AMQP\x00\x00\x09\x01"


class RabbitServer(Server):
    """One RabbitMQ server.

    :ivar url: its first virtual host, as an administrator.
    """

    kind = "rabbitmq"
    deadline_s = 60.0

    def __init__(self, folder: Path, port: int, *, config: Sequence[str], plugins: Sequence[str]) -> None:
        super().__init__(folder, port)
        self.config = [f"listeners.tcp.local = {HOST}:{port}", *config]
        self.plugins = list(plugins)
        self._password = secrets.token_hex(12)
        self.url = amqp_url(USER, self._password, port, "/")
        self._distribution_port, self._epmd_port = free_ports(2)
        self._names = (f"test-{n}" for n in itertools.count(1))
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    @classmethod
    def start(
        cls, test: HasCleanup | None = None, *, config: Sequence[str] = (), plugins: Sequence[str] = ()
    ) -> RabbitServer:
        """A server of one's own; with ``test``, it ends with that test.

        :param config: further lines of ``rabbitmq.conf``.
        :param plugins: names of plugins to enable.
        :raises unittest.SkipTest: RabbitMQ is not installed.
        """
        installed(packages.rabbitmq, "rabbitmq-server")
        return cls._launch(lambda folder, port: cls(folder, port, config=config, plugins=plugins), test)

    def fresh_vhost(self, test: HasCleanup | None = None) -> str:
        """The URL of an empty virtual host, with a user that may do everything there and
        nothing elsewhere; with ``test``, both are deleted after it."""
        name, password = next(self._names), secrets.token_hex(12)
        self.eval(
            f"ok = rabbit_vhost:add({_binary(name)}, {_ACTOR}),"
            f"ok = rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, {_ACTOR})"
        )
        url = amqp_url(name, password, self.port, name)
        self.permit(url)
        if test is not None:
            test.addCleanup(self.delete_vhost, url)
        return url

    def delete_vhost(self, url: str) -> None:
        """Delete a virtual host and its user; the server does it in its own time."""
        if self.running:
            vhost, user = _binary(vhost_of(url)), _binary(user_of(url))
            self.eval(
                f"spawn(fun() -> rabbit_vhost:delete({vhost}, {_ACTOR}),"
                f"rabbit_auth_backend_internal:delete_user({user}, {_ACTOR}) end)"
            )

    # --- faults and rights ----------------------------------------------------------------

    def permit(self, url: str, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """What the user of a virtual host may do there: patterns of names, as RabbitMQ's."""
        rights = ", ".join(_binary(pattern) for pattern in (configure, write, read))
        user, vhost = _binary(user_of(url)), _binary(vhost_of(url))
        self.eval(f"ok = rabbit_auth_backend_internal:set_permissions({user}, {vhost}, {rights}, {_ACTOR})")

    def memory_alarm(self, on: bool) -> None:
        """As if memory ran short: who publishes is blocked and told so."""
        alarm = "{resource_limit, memory, node()}"
        self.eval(f"rabbit_alarm:set_alarm({{{alarm}, []}})" if on else f"rabbit_alarm:clear_alarm({alarm})")

    def delete_queue(self, url: str, name: str) -> None:
        """Delete a queue with all its messages, as an operator may by mistake."""
        self.eval(f"{{ok, Q}} = {_lookup(url, name)}, {{ok, _}} = rabbit_amqqueue:delete(Q, false, false, {_ACTOR})")

    def messages(self, url: str, name: str) -> int | None:
        """How many messages a queue holds, those a consumer has not settled included; ``None``: no such queue."""
        said = self.eval(
            f"case {_lookup(url, name)} of {{ok, Q}} -> case amqqueue:get_type(Q) of "
            "rabbit_quorum_queue -> {ok, {_, N}, _} ="
            " ra:leader_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1), N;"
            "_ -> [{messages, N}] = rabbit_amqqueue:info(Q, [messages]), N end;"
            "_ -> none end"
        )
        return int(said) if said.isdigit() else None

    def close_connections(self, url: str) -> None:
        """Close every connection to a virtual host, as an operator may."""
        self.eval(
            f'[rabbit_networking:close_connection(element(2, lists:keyfind(pid, 1, C)), <<"closed by a test">>) || '
            f"C <- rabbit_networking:connection_info_all([pid, vhost]), "
            f"lists:keyfind(vhost, 1, C) =:= {{vhost, {_binary(vhost_of(url))}}}]"
        )

    def eval(self, expressions: str) -> str:
        """The printed value of Erlang expressions, evaluated in the server.

        :raises ServerFailed: with the exception they ended with.
        """
        with self._lock:
            try:
                said = self._ask(f"{expressions}.")
            except OSError:  # the server was restarted meanwhile
                self._hang_up()
                said = self._ask(f"{expressions}.")
        kind, _, value = said.partition(" ")
        if kind != "ok":
            raise ServerFailed(f"{expressions}\n{value}")
        return value

    def ctl(self, *words: str) -> str:
        """What ``rabbitmqctl`` says: slow, and true to what operators use.

        :raises ServerFailed: with what it said.
        """
        said = self.folder / f"ctl-{secrets.token_hex(4)}"
        # Where it finds no epmd it starts one: kept, it takes that with it.
        with self._keeper([str(_programs() / "rabbitmqctl"), "-n", self._node, *words], log=said) as child:
            child.wait_ready()
            code = child.wait()
            if child.process.stdin is not None:
                child.process.stdin.close()
        text = said.read_text(errors="replace")
        said.unlink()
        if code:
            raise ServerFailed(f"rabbitmqctl {' '.join(words)} failed\n{text}")
        return text

    # --- how it is run ----------------------------------------------------------------------

    @property
    def _node(self) -> str:
        return f"crawlfarm-{self.port}@localhost"

    def _prepare(self) -> None:
        (self.folder / "home").mkdir()
        lines = [f"default_user = {USER}", f"default_pass = {self._password}", "disk_free_limit.absolute = 50MB"]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, *self.config, ""]))
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].\n")
        shutil.copy(_CONTROL, self.folder / "control.erl")

    def _environ(self) -> dict[str, str | None]:
        inherited = {name: None for name in os.environ if name.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **inherited,
            "HOME": str(self.folder / "home"),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            # Its script then becomes the virtual machine instead of waiting for it.
            "RUNNING_UNDER_SYSTEMD": "true",
            # The script splits this at spaces, whatever the quotes.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": '-eval file:script("control.erl")',
        }

    def _command(self) -> Sequence[str]:
        return [str(_programs() / "rabbitmq-server")]

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(_HELLO)
        method_frame = b"\x01"
        if connection.recv(1) != method_frame:
            return False
        with contextlib.suppress(OSError):
            return self.eval("rabbit:is_running()") == "true"
        return False

    def _ended(self) -> None:
        self._hang_up()

    def _ask(self, text: str) -> str:
        if self._control is None:
            self._control = self._call_control()
        data = text.encode()
        self._control.sendall(struct.pack("!I", len(data)) + data)
        (length,) = struct.unpack("!I", _receive(self._control, 4))
        return _receive(self._control, length).decode()

    def _call_control(self) -> socket.socket:
        """The path of a Unix socket is limited to 107 bytes: it is reached by a short one."""
        folder = os.open(self.folder, os.O_RDONLY)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(self.deadline_s)
            connection.connect(f"/proc/self/fd/{folder}/control")
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(folder)
        return connection

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None


def amqp_url(user: str, password: str, port: int, vhost: str) -> str:
    """As brokers' clients take it."""
    return f"amqp://{user}:{password}@{HOST}:{port}/{quote(vhost, safe='')}"


def vhost_of(url: str) -> str:
    """The virtual host that a URL names."""
    return unquote(urlsplit(url).path.removeprefix("/"))


def user_of(url: str) -> str:
    """The user that a URL names."""
    return unquote(urlsplit(url).username or "")


def _binary(text: str) -> str:
    return "<<" + ",".join(str(byte) for byte in text.encode()) + ">>"


def _lookup(url: str, queue: str) -> str:
    return f"rabbit_amqqueue:lookup(rabbit_misc:r({_binary(vhost_of(url))}, queue, {_binary(queue)}))"


_ACTOR = _binary("crawlfarm-tests")


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (piece := connection.recv(count - len(data))):
            raise ConnectionError("the server closed the control socket")
        data += piece
    return data


def _programs() -> Path:
    return installed(packages.rabbitmq, "rabbitmq-server")


_shared: Once[RabbitServer | RemoteRabbit] = Once()


def rabbitmq_server() -> RabbitServer | RemoteRabbit:
    """The RabbitMQ of this test run, started when the first test asks.

    :raises unittest.SkipTest: there is none, with what to install.
    """
    url = os.environ.get(VARIABLE)
    return _shared.get(lambda: RemoteRabbit(url) if url else RabbitServer.start())
