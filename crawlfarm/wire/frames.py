"""What the lock daemon and its clients say to each other on a connection.

A frame is four bytes, the version of this layout and a length of 24 bits, and then so
many bytes of MessagePack: one message of :data:`ToDaemon` or :data:`ToClient`. A
conversation::

    daemon                                  client
    Greeting(version, nonce, secret)
                                            Hello(version, session, nonce, proof)
    Welcome(proof)
                                            Call(1, 0, Acquire(...)), Call(2, 0, Register(...))
    Answered(2, Registered(...)), Answered(1, Granted(...))
                                            Watch("master-a")
    Notice("master-a", CancelWanted(...))
    Goodbye()

* Calls are decided in their order, and answered as their commits are through.
* Who shares the secret proves it, both ways, without saying it (:func:`proof`).
* A ``session`` names a client across its connections: a call that is sent again under
  the same number within the daemon's life is answered, not decided, a second time.
* Either side answers :class:`Ping`. What cannot be understood gets a :class:`Fault` that
  names it, and the connection is closed.

:class:`FrameReader` and :func:`encode_frame` do no I/O.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Generic, TypeVar

import msgspec

from crawlfarm.errors import BadInput
from crawlfarm.wire import lockd

FRAME_VERSION = 1
"""Of the four bytes in front, and how messages are packed."""
PROTOCOL_VERSION = 1
"""Of the messages."""
MAX_FRAME_BYTES = 256 * 1024
"""The longest message, without the four bytes in front."""
MAX_HELLO_BYTES = 1024
"""The longest message of a client that has not said who it is."""
HEADER_BYTES = 4

SECRET = "secret"
"""Fault: the other side does not share our secret."""
VERSION = "version"
"""Fault: the other side speaks another version."""
NOT_LEADER = "not_leader"
"""Failure or fault: another daemon decides."""

_MOST_SHOWN = 300

Nonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class FrameError(BadInput):
    """Bytes that are no frame; the text names the frame and what is wrong with it."""

    code = "bad_frame"


class _Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Hello(_Frame, frozen=True, tag=1):
    """The client's first.

    :ivar session: drawn at random by each client, once; nobody else knows it.
    :ivar nonce: drawn at random for this connection.
    :ivar proof: of the client's secret; empty without one.
    """

    version: int
    session: Annotated[str, msgspec.Meta(min_length=16, max_length=64)]
    nonce: Nonce
    proof: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Call(_Frame, frozen=True, tag=2):
    """A command.

    :ivar id: grows from call to call of a session.
    :ivar below: no call under this number will be sent again.
    """

    id: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    below: int
    command: lockd.Command


class Watch(_Frame, frozen=True, tag=3):
    """Send :class:`Notice` of cancels of this master's leases on this connection."""

    master: Name


class Unwatch(_Frame, frozen=True, tag=4):
    master: Name


class Ping(_Frame, frozen=True, tag=5):
    """Answer with :class:`Pong`."""


class Pong(_Frame, frozen=True, tag=6):
    pass


class Greeting(_Frame, frozen=True, tag=11):
    """The daemon's first.

    :ivar nonce: drawn at random for this connection.
    :ivar secret: whether there is one to be shared.
    """

    version: int
    nonce: Nonce
    secret: bool


class Welcome(_Frame, frozen=True, tag=12):
    """Calls are taken from now on. ``proof`` is of the daemon's secret."""

    proof: bytes = b""


class Answered(_Frame, frozen=True, tag=13):
    """What the answer says is committed."""

    id: int
    answer: lockd.Answer


class Failed(_Frame, frozen=True, tag=14):
    """There is no answer to this call; ``code`` is that of an exception, or ``not_leader``.

    :ivar leader: with ``not_leader`` the address of who decides, where that is known.
    """

    id: int
    code: str
    message: str
    retry_after_s: float = 1.0
    leader: str = ""


class Notice(_Frame, frozen=True, tag=15):
    """A lease of this master is to end."""

    master: str
    wanted: lockd.CancelWanted


class Goodbye(_Frame, frozen=True, tag=16):
    """The daemon stops: what it has is answered, then it closes. Call another one."""


class Fault(_Frame, frozen=True, tag=17):
    """The connection ends, and why. ``leader`` as in :class:`Failed`."""

    code: str
    message: str
    leader: str = ""


ToDaemon = Hello | Call | Watch | Unwatch | Ping | Pong
ToClient = Greeting | Welcome | Answered | Failed | Notice | Goodbye | Fault | Ping | Pong

F = TypeVar("F")

_encode = msgspec.msgpack.Encoder().encode
_TO_DAEMON: msgspec.msgpack.Decoder[ToDaemon] = msgspec.msgpack.Decoder(ToDaemon)
_TO_CLIENT: msgspec.msgpack.Decoder[ToClient] = msgspec.msgpack.Decoder(ToClient)


def encode_frame(message: ToDaemon | ToClient, limit: int = MAX_FRAME_BYTES) -> bytes:
    """:raises FrameError: the message is longer than the other side takes."""
    body = _encode(message)
    if len(body) > limit:
        name = type(getattr(message, "command", message)).__name__
        raise FrameError(f"{name} takes {len(body)} bytes; at most {limit} can be sent", code="too_long")
    return (FRAME_VERSION << 24 | len(body)).to_bytes(HEADER_BYTES, "big") + body


class FrameReader(Generic[F]):
    """Cuts a stream of bytes into messages.

    Invariant: it holds no more than it was fed and a frame that is too long is refused
    by its first four bytes, so a peer can make it hold ``limit`` bytes and one read.

    :ivar limit: the longest message taken; may be changed between messages.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[F], limit: int = MAX_FRAME_BYTES) -> None:
        self.limit = limit
        self._decoder = decoder
        self._chunks: list[bytes] = []
        self._at = 0
        """Where in the first chunk the next frame begins."""
        self._size = 0
        """Bytes that are there from there on."""
        self._needed = HEADER_BYTES
        """The frame's bytes, as far as its length is known."""
        self._count = 0

    @classmethod
    def of_daemon(cls) -> FrameReader[ToDaemon]:
        """Reads what clients send, beginning with a :class:`Hello`."""
        return FrameReader(_TO_DAEMON, MAX_HELLO_BYTES)

    @classmethod
    def of_client(cls) -> FrameReader[ToClient]:
        """Reads what the daemon sends."""
        return FrameReader(_TO_CLIENT)

    @property
    def count(self) -> int:
        """How many frames have been there, the one that could not be read included."""
        return self._count

    @property
    def held(self) -> int:
        """Bytes fed and not yet given out."""
        return self._size

    def feed(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._size += len(data)

    def next(self) -> F | None:
        """The next message, or ``None`` when it is not there yet.

        :raises FrameError: the stream is broken for good.
        """
        if self._size < self._needed:
            return None
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)[self._at :]]
            self._at = 0
        data, at = self._chunks[0], self._at
        if self._needed == HEADER_BYTES:
            self._needed = HEADER_BYTES + self._length(data[at : at + HEADER_BYTES])
            if self._size < self._needed:
                return None
        end = at + self._needed
        self._count += 1
        message = self._message(memoryview(data)[at + HEADER_BYTES : end])
        self._size -= self._needed
        self._needed = HEADER_BYTES
        self._at = end
        if not self._size:
            self._chunks = []
            self._at = 0
        return message

    def _length(self, header: bytes) -> int:
        if header[0] != FRAME_VERSION:
            raise FrameError(
                f"frame {self._count + 1} begins with the byte {header[0]:#04x}, and version {FRAME_VERSION} is spoken "
                f"here: whoever sends it is of another version, or no part of the lock daemon",
                code="frame_version",
            )
        length = int.from_bytes(header[1:], "big")
        if length > self.limit:
            raise FrameError(
                f"frame {self._count + 1} has {length} bytes; at most {self.limit} are taken", code="too_long"
            )
        return length

    def _message(self, body: memoryview) -> F:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as e:
            text = "".join(c if c.isprintable() else "?" for c in str(e))[:_MOST_SHOWN]
            raise FrameError(f"frame {self._count} ({len(body)} bytes) cannot be read: {text}") from None


def proof(secret: str, who: str, daemon_nonce: bytes, client_nonce: bytes) -> bytes:
    """Shows that ``who``, ``daemon`` or ``client``, knows the secret; good for one connection."""
    text = b"crawlfarm lockd %b %d " % (who.encode(), len(daemon_nonce)) + daemon_nonce + client_nonce
    return hmac.digest(secret.encode(), text, "sha256")


def proves(given: bytes, secret: str, who: str, daemon_nonce: bytes, client_nonce: bytes) -> bool:
    """Whether ``given`` is that proof, in constant time."""
    return hmac.compare_digest(given, proof(secret, who, daemon_nonce, client_nonce))
