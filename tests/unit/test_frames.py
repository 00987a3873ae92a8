"""Frames of the lock daemon's connections: any split, any garbage, and errors that name it."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.wire import frames, lockd
from crawlfarm.wire.frames import HEADER_BYTES, FrameError, FrameReader, encode_frame
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt
from tests.support.examples import examples

SPEC = JobSpec("http://a.example/ä", 3, max_pages=7)
RECEIPT = Receipt(found=2, fetched=1, failed={"dns": 1}, skipped={}, complete=True)

COMMANDS: list[lockd.Command] = [
    lockd.Register("j", "c", "i", "body", "flight", SPEC, detach=True),
    lockd.Acquire("m", "j"),
    lockd.Heartbeat("m", "j", 2**53, Progress(fetched=3)),
    lockd.Complete("m", "j", 1, "done", RECEIPT),
    lockd.Complete("m", "j", 1, "failed", error_code="x", error_message="y" * 300),
    lockd.Release("m", "j", 1),
    lockd.CancelJob("j", "c", ("i", "k")),
    lockd.CancelJob("j", "c"),
    lockd.Ask("j", "c"),
]
ANSWERS: list[lockd.Answer] = [
    lockd.Registered("j", created=True, joined=False),
    lockd.Granted("j", 1, 1, 30.0, SPEC, "cancelled"),
    lockd.Beat(30.0),
    lockd.Fenced("j"),
    lockd.Done("j"),
    lockd.Refused("busy", "no"),
    lockd.JobView("j", "done", SPEC, Progress(), RECEIPT),
]
TO_DAEMON: list[frames.ToDaemon] = [
    frames.Hello(1, "s" * 16, b"n" * 32, b"p" * 32),
    *(frames.Call(number, number - 1, command) for number, command in enumerate(COMMANDS, 1)),
    frames.Watch("m"),
    frames.Unwatch("m"),
    frames.Ping(),
    frames.Pong(),
]
TO_CLIENT: list[frames.ToClient] = [
    frames.Greeting(1, b"n" * 32, True),
    frames.Welcome(b"p"),
    *(frames.Answered(number, answer) for number, answer in enumerate(ANSWERS, 1)),
    frames.Failed(3, "busy", "later", 2.5, "tcp:b:1"),
    frames.Notice("m", lockd.CancelWanted("j", 1, "why")),
    frames.Goodbye(),
    frames.Fault("bad_frame", "frame 3"),
    frames.Ping(),
    frames.Pong(),
]


def of_daemon() -> FrameReader[frames.ToDaemon]:
    """A reader behind the handshake."""
    reader = FrameReader.of_daemon()
    reader.limit = frames.MAX_FRAME_BYTES
    return reader


def read(reader: FrameReader[Any], data: bytes, cuts: list[int]) -> list[Any]:
    """All messages of ``data``, fed in pieces."""
    found = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        reader.feed(data[begin:end])
        while (message := reader.next()) is not None:
            found.append(message)
    return found


class FrameTests(SynchronousTestCase):
    def refused(self, data: bytes, code: str, reader: FrameReader[Any] | None = None) -> str:
        """The error's text, which is one short line and names the frame."""
        reader = reader or of_daemon()
        reader.feed(data)
        with self.assertRaises(FrameError) as caught:
            while reader.next() is not None:
                pass
        text = caught.exception.message
        self.assertEqual(caught.exception.code, code, text)
        self.assertTrue(text.isprintable(), text)
        self.assertLess(len(text), 500)
        self.assertRegex(text, r"^frame \d+ ")
        return text

    @examples(200)
    @given(st.lists(st.sampled_from(TO_DAEMON), max_size=12), st.lists(st.integers(0, 10**6), max_size=20))
    def test_split_anywhere(self, messages: list[frames.ToDaemon], cuts: list[int]) -> None:
        """However the bytes are cut, the same messages come out, and nothing is kept of them."""
        reader = of_daemon()
        data = b"".join(encode_frame(message) for message in messages)
        self.assertEqual(read(reader, data, cuts), messages)
        self.assertEqual((reader.held, reader.count), (0, len(messages)))

    def test_byte_by_byte(self) -> None:
        """One byte at a time is as good as all at once, both ways."""
        for reader, messages in ((of_daemon(), TO_DAEMON), (FrameReader.of_client(), TO_CLIENT)):
            data = b"".join(encode_frame(message) for message in messages)
            self.assertEqual(read(reader, data, list(range(len(data)))), messages)

    @examples(300)
    @given(st.binary(max_size=400), st.lists(st.integers(0, 10**6), max_size=5))
    def test_garbage(self, data: bytes, cuts: list[int]) -> None:
        """Whatever comes, it is messages, an error, or not enough yet."""
        try:
            read(of_daemon(), data, cuts)
        except FrameError as e:
            self.assertTrue(e.message.isprintable())

    @examples(300)
    @given(st.binary(max_size=200))
    def test_garbage_in_a_frame(self, body: bytes) -> None:
        """A whole frame is read, or refused by its number and size."""
        reader = of_daemon()
        reader.feed(bytes([frames.FRAME_VERSION]) + len(body).to_bytes(3, "big") + body)
        try:
            self.assertIsNotNone(reader.next())
        except FrameError as e:
            self.assertIn(f"frame 1 ({len(body)} bytes)", e.message)

    @examples(200)
    @given(
        st.sampled_from(TO_DAEMON),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        ),
        st.integers(0, 5),
    )
    def test_one_field_wrong(self, message: frames.ToDaemon, value: object, at: int) -> None:
        """A message with anything in the place of anything is read or refused, never another error."""
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
        fields[at % len(fields)] = value
        body = msgspec.msgpack.encode(fields)
        reader = of_daemon()
        reader.feed(bytes([frames.FRAME_VERSION]) + len(body).to_bytes(3, "big") + body)
        try:
            reader.next()
        except FrameError as e:
            self.assertTrue(e.message.isprintable())

    def test_another_protocol(self) -> None:
        """Whoever speaks something else is told by the first byte."""
        self.assertIn("0x47", self.refused(b"GET / HTTP/1.1\r\n\r\n", "frame_version"))
        self.assertIn("0x16", self.refused(b"\x16\x03\x01\x02\x00\x01", "frame_version"))
        good = encode_frame(frames.Ping())
        self.assertIn("frame 3 ", self.refused(good + good + b"\x02" + good[1:], "frame_version"))

    def test_too_long(self) -> None:
        """A frame that is too long is refused by its header, before any of it is kept."""
        header = bytes([frames.FRAME_VERSION]) + (frames.MAX_FRAME_BYTES + 1).to_bytes(3, "big")
        text = self.refused(header, "too_long")
        self.assertIn(str(frames.MAX_FRAME_BYTES), text)
        self.refused(bytes([frames.FRAME_VERSION]) + (2000).to_bytes(3, "big"), "too_long", FrameReader.of_daemon())
        with self.assertRaises(FrameError) as caught:
            encode_frame(frames.Call(1, 0, lockd.Ask("j" * frames.MAX_FRAME_BYTES, "c")))
        self.assertIn("Ask takes", caught.exception.message)

    def test_the_longest(self) -> None:
        """The longest message passes."""
        spare = frames.MAX_FRAME_BYTES - (len(encode_frame(frames.Call(1, 0, lockd.Ask("j" * 70000, "c")))) - 70000)
        message = frames.Call(1, 0, lockd.Ask("j" * (spare + HEADER_BYTES), "c"))
        self.assertEqual(len(encode_frame(message)) - HEADER_BYTES, frames.MAX_FRAME_BYTES)
        self.assertEqual(read(of_daemon(), encode_frame(message), [7, 70_000, 200_000]), [message])

    def test_wrong_in_places(self) -> None:
        """The place is named, and what was expected there."""
        ask = msgspec.msgpack.decode(msgspec.msgpack.encode(frames.Call(1, 0, lockd.Ask("j", "c"))))

        def framed(*fields: object) -> bytes:
            body = msgspec.msgpack.encode(fields)
            return bytes([frames.FRAME_VERSION]) + len(body).to_bytes(3, "big") + body

        self.assertIn("`$[3].job`", self.refused(framed(*ask[:3], {**ask[3], "job": 5}), "bad_frame"))
        self.assertIn("client", self.refused(framed(*ask[:3], {"type": "Ask", "job": "j"}), "bad_frame"))
        self.assertIn("NoSuch", self.refused(framed(*ask[:3], {"type": "NoSuch\n"}), "bad_frame"))
        self.assertIn("99", self.refused(framed(99), "bad_frame"))
        self.refused(framed(2, 0, 0, ask[3]), "bad_frame")
        self.refused(framed(3, ""), "bad_frame")
        self.refused(encode_frame(frames.Greeting(1, b"n" * 16, False)), "bad_frame")

    def test_deep(self) -> None:
        """A nest without end is an error like others."""
        body = b"\x92\x05" + b"\x91" * 100_000
        self.refused(bytes([frames.FRAME_VERSION]) + len(body).to_bytes(3, "big") + body, "bad_frame")

    def test_later_fields(self) -> None:
        """Fields of a later version are passed over."""
        body = msgspec.msgpack.encode([16, "more", {"x": 1}])
        reader = FrameReader.of_client()
        reader.feed(bytes([frames.FRAME_VERSION]) + len(body).to_bytes(3, "big") + body)
        self.assertEqual(reader.next(), frames.Goodbye())


class ProofTests(SynchronousTestCase):
    def test_proof(self) -> None:
        """A proof is good for one secret, one side and one connection."""
        good = frames.proof("secret", "client", b"d" * 32, b"c" * 32)
        self.assertTrue(frames.proves(good, "secret", "client", b"d" * 32, b"c" * 32))
        for other in (
            ("Secret", "client", b"d" * 32, b"c" * 32),
            ("secret", "daemon", b"d" * 32, b"c" * 32),
            ("secret", "client", b"e" * 32, b"c" * 32),
            ("secret", "client", b"d" * 31, b"d" + b"c" * 32),
        ):
            self.assertFalse(frames.proves(good, *other))
        self.assertFalse(frames.proves(b"", "secret", "client", b"d" * 32, b"c" * 32))
