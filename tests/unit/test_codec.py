"""Bytes of a client to a message: each bad one is refused by name, none does more harm."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.jobs import job_spec, parse_depth
from crawlfarm.errors import BadInput
from crawlfarm.wire.client import (
    MAX_REQUEST_BYTES,
    Accepted,
    Busy,
    Cancel,
    Error,
    JobProgress,
    PageLinked,
    PageMoved,
    Pages,
    Result,
    Resume,
    Rewound,
    Status,
    Submit,
    cursor,
    parse_cursor,
)
from crawlfarm.wire.codec import decode_reply, decode_request, encode_json, pack, shown, unpack_result
from crawlfarm.wire.jobs import JobOptions
from crawlfarm.wire.pages import Ended, Linked, Moved, PageRecord, Receipt, StoredResult

URL = "https://site.test/"
GOOD: dict[str, Any] = {"type": "submit", "id": "a", "url": URL, "depth": 2}


def take(payload: bytes) -> None:
    """What a gateway does with a message before anybody else hears of it."""
    request = decode_request(payload)
    if isinstance(request, Submit):
        job_spec(request.url, request.depth, request.options)


class Refused(SynchronousTestCase):
    def refused(self, payload: bytes | dict[str, Any]) -> BadInput:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        error = self.assertRaises(BadInput, take, data)
        self.assertTrue(error.message)
        self.assertTrue(error.message.isprintable(), error.message)
        self.assertLess(len(error.message), 500)
        return error

    def check(self, cases: list[tuple[bytes | dict[str, Any], str, str]]) -> None:
        for payload, code, path in cases:
            error = self.refused(payload)
            self.assertEqual((error.code, error.path), (code, path), (payload, error.message))

    def test_what_is_no_message(self) -> None:
        """What is no JSON object is refused for that, whatever else it is."""
        self.check(
            [
                (b"", "not_json", ""),
                (b"hello", "not_json", ""),
                (b'{"type": "submit"', "not_json", ""),
                (b'{"type": "status", "job": "a"} {}', "not_json", ""),
                (b'{"depth": NaN}', "not_json", ""),
                (b'{"depth": -Infinity}', "not_json", ""),
                (b'{"depth": ' + b"9" * 5000 + b"}", "not_json", ""),
                (b"[]", "not_an_object", ""),
                (b'[{"type": "status"}]', "not_an_object", ""),
                (b'"submit"', "not_an_object", ""),
                (b"5", "not_an_object", ""),
                (b"null", "not_an_object", ""),
                (b"[" * 30_000 + b"]" * 30_000, "too_deep", ""),
                (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep", ""),
                (b'{"type": "status", "type": "cancel", "job": "a"}', "duplicate_key", "type"),
                (b'{"type": "submit", "options": {"scope": "any", "scope": "host"}}', "duplicate_key", "scope"),
                (b'{"type": "status", "job": "\xff"}', "not_utf8", ""),
                (b"\x80", "not_utf8", ""),
                (b'{"type": "status", "job": "\\ud800"}', "not_utf8", ""),
                (b" " * (MAX_REQUEST_BYTES + 1), "too_long", ""),
            ]
        )

    def test_unknown_types_and_fields(self) -> None:
        """An unknown type, field or option is named, with those that are known."""
        self.check(
            [
                ({}, "unknown_type", "type"),
                ({"type": "crawl"}, "unknown_type", "type"),
                ({"type": 5}, "unknown_type", "type"),
                ({"type": ["submit"]}, "unknown_type", "type"),
                ({"type": None}, "unknown_type", "type"),
                (GOOD | {"priority": 5}, "unknown_field", "priority"),
                (GOOD | {"options": {"robots": False}}, "unknown_option", "options.robots"),
                (GOOD | {"options": {"max_page": 5}}, "unknown_option", "options.max_page"),
                ({"type": "cancel", "job": "a", "id": "b"}, "unknown_field", "id"),
                ({"type": "submit", "id": "a", "depth": 1}, "missing_field", "url"),
                ({"type": "submit", "url": URL, "depth": 1}, "missing_field", "id"),
                ({"type": "submit", "id": "a", "url": URL}, "missing_field", "depth"),
                ({"type": "resume"}, "missing_field", "job"),
            ]
        )

    def test_urls(self) -> None:
        """A URL that cannot be crawled is refused for what is wrong with it."""
        self.check(
            [
                (GOOD | {"url": url}, code, "url")
                for url, code in (
                    ("", "url_missing"),
                    ("   ", "url_missing"),
                    ("site.test/x", "url_scheme"),
                    ("localhost:8000/x", "url_scheme"),
                    ("//site.test/", "url_scheme"),
                    ("ftp://site.test/", "url_scheme"),
                    ("javascript:alert(1)", "url_scheme"),
                    ("file:///etc/passwd", "url_scheme"),
                    ("data:text/html,x", "url_scheme"),
                    ("http://", "url_host"),
                    ("http:///x", "url_host"),
                    ("https://?q", "url_host"),
                    ("http://a b/", "url_host"),
                    ("http://xn--a/", "url_host"),
                    ("http://\u2488example/", "url_host"),
                    ("http://a..b/", "url_host"),
                    ("http://[::1/", "url_host"),
                    ("http://[zz]/", "url_host"),
                    ("http://site.test:0/", "url_port"),
                    ("http://site.test:99999/", "url_port"),
                    ("http://site.test:x/", "url_port"),
                    ("http://me@site.test/", "url_credentials"),
                    ("http://me:secret@site.test/", "url_credentials"),
                    ("http://site.test/\r\nX: y", "url_characters"),
                    ("http://site.test/\x00", "url_characters"),
                    (URL + "a" * 2083, "url_length"),
                )
            ]
        )
        self.assertNotIn("secret", self.refused(GOOD | {"url": "http://me:secret@site.test/"}).message)

    def test_depths(self) -> None:
        """A depth is a whole number from 1 to 1,000."""
        self.check(
            [
                (GOOD | {"depth": 0}, "out_of_range", "depth"),
                (GOOD | {"depth": -1}, "out_of_range", "depth"),
                (GOOD | {"depth": 1001}, "out_of_range", "depth"),
                (GOOD | {"depth": 10**9}, "out_of_range", "depth"),
                (GOOD | {"depth": 10**40}, "out_of_range", "depth"),
                (GOOD | {"depth": 1.5}, "wrong_type", "depth"),
                (GOOD | {"depth": "x"}, "wrong_type", "depth"),
                (GOOD | {"depth": "3"}, "wrong_type", "depth"),
                (GOOD | {"depth": None}, "wrong_type", "depth"),
                (GOOD | {"depth": True}, "wrong_type", "depth"),
                (GOOD | {"depth": [1]}, "wrong_type", "depth"),
            ]
        )

    def test_depths_of_a_command_line(self) -> None:
        """The same depths as words are refused in the same way."""
        for text, code in (
            ("0", "out_of_range"),
            ("-1", "out_of_range"),
            ("1001", "out_of_range"),
            (str(10**9), "out_of_range"),
            (str(10**40), "out_of_range"),
            ("1.5", "wrong_type"),
            ("x", "wrong_type"),
            ("", "wrong_type"),
            ("³", "wrong_type"),
        ):
            error = self.assertRaises(BadInput, parse_depth, text)
            self.assertEqual((error.code, error.path), (code, "depth"), text)
        self.assertEqual(parse_depth(" 7 "), 7)

    def test_options(self) -> None:
        """Each option has a type and a range, and is named when it is wrong."""
        self.check(
            [
                (GOOD | {"options": {"scope": "world"}}, "out_of_range", "options.scope"),
                (GOOD | {"options": {"scope": 5}}, "wrong_type", "options.scope"),
                (GOOD | {"options": {"max_pages": 0}}, "out_of_range", "options.max_pages"),
                (GOOD | {"options": {"max_pages": 10**10}}, "out_of_range", "options.max_pages"),
                (GOOD | {"options": {"max_pages": "5"}}, "wrong_type", "options.max_pages"),
                (GOOD | {"options": {"detach": 1}}, "wrong_type", "options.detach"),
                (GOOD | {"options": {"stream": "yes"}}, "wrong_type", "options.stream"),
                (GOOD | {"options": []}, "wrong_type", "options"),
                (GOOD | {"options": None}, "wrong_type", "options"),
            ]
        )

    def test_ids_and_cursors(self) -> None:
        """Ids are 1 to 128 characters without control characters; cursors are ``run.seq``."""
        self.check(
            [
                (GOOD | {"id": ""}, "out_of_range", "id"),
                (GOOD | {"id": "a" * 129}, "out_of_range", "id"),
                (GOOD | {"id": "a\x00b"}, "out_of_range", "id"),
                (GOOD | {"id": "a\r\nb"}, "out_of_range", "id"),
                (GOOD | {"id": "a\n"}, "out_of_range", "id"),
                (GOOD | {"id": 5}, "wrong_type", "id"),
                ({"type": "resume", "job": "a\x1b[2J"}, "out_of_range", "job"),
                ({"type": "resume", "job": "j", "after": "5"}, "out_of_range", "after"),
                ({"type": "resume", "job": "j", "after": "-1.5"}, "out_of_range", "after"),
                ({"type": "resume", "job": "j", "after": "1.2\n"}, "out_of_range", "after"),
                ({"type": "resume", "job": "j", "after": 1.5}, "wrong_type", "after"),
                ({"type": "status", "job": {"$ne": 1}}, "wrong_type", "job"),
            ]
        )

    def test_errors_say_what_is_allowed(self) -> None:
        """The text names the field and says what may stand there."""
        for message, words in (
            (GOOD | {"depth": 0}, "1 to 1000"),
            (GOOD | {"options": {"scope": "world"}}, "any, host"),
            (GOOD | {"options": {"robots": 1}}, "max_pages"),
            ({"type": "crawl"}, "submit, resume"),
            (GOOD | {"depth": 1.5}, "depth: must be a whole number, not a decimal number"),
            (GOOD | {"options": {"max_pages": "5"}}, "must be a whole number or null, not a string"),
            (GOOD | {"options": []}, "options: must be an object, not an array"),
        ):
            self.assertIn(words, self.refused(message).message)

    @given(st.binary(max_size=300))
    @settings(max_examples=500, deadline=None)
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """Whatever bytes arrive, they are a message or :class:`BadInput`, nothing else."""
        try:
            take(data)
        except BadInput as e:
            self.assertTrue(e.message.isprintable())

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
            max_leaves=20,
        ),
        st.dictionaries(
            st.sampled_from(["type", "id", "url", "depth", "options", "job", "after", "stream", "x"]),
            st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.just({"scope": 1}) | st.just([]),
        ),
        st.sampled_from(["submit", "resume", "cancel", "status", "other"]),
    )
    @settings(max_examples=500, deadline=None)
    def test_arbitrary_objects(self, value: object, fields: dict[str, Any], kind: str) -> None:
        """The same for whatever JSON objects arrive, and the error can be sent as a message."""
        for payload in (value, fields, fields | {"type": kind}, GOOD | fields, GOOD | {"options": value}):
            try:
                take(json.dumps(payload).encode())
            except BadInput as e:
                reply = Error(e.code, e.message, e.path)
                self.assertEqual(decode_reply(encode_json(reply)), reply)


class Taken(SynchronousTestCase):
    def test_requests(self) -> None:
        """Every request comes back as the message it was."""
        for request in (
            Submit("a", URL, 1000),
            Submit("ä ☃", URL, 1, JobOptions("host", 5, True, True)),
            Resume("j"),
            Resume("j", "3.120", False),
            Cancel("j"),
            Status("j"),
        ):
            self.assertEqual(decode_request(encode_json(request)), request)

    def test_defaults(self) -> None:
        """What is left out has its default."""
        request = decode_request(json.dumps(GOOD).encode())
        self.assertEqual(request, Submit("a", URL, 2, JobOptions()))

    def test_the_longest(self) -> None:
        """A message of exactly the longest length is taken."""
        text = json.dumps({"type": "status", "job": "j"})
        self.assertEqual(decode_request(text.ljust(MAX_REQUEST_BYTES).encode()), Status("j"))

    def test_replies(self) -> None:
        """Every reply comes back as the message it was."""
        receipt = Receipt(3, 1, {"dns": 1}, {"scope": 1}, True)
        page = PageRecord(URL, 0, "failed:dns", linked_from=[URL + "a"])
        for reply in (
            Accepted("a", "j", True),
            Pages("j", "1.1", "1.1", [page]),
            PageMoved("j", "1.2", URL, 1, URL),
            PageLinked("j", "1.3", URL, URL),
            Rewound("j", 2),
            JobProgress("j", "running", 5, 4),
            Result("j", URL, 2, [[URL], []], receipt),
            Error("busy", "later", job="j"),
            Busy(1.5, "later", "a"),
        ):
            self.assertEqual(decode_reply(encode_json(reply)), reply)

    def test_replies_of_a_later_version(self) -> None:
        """A client ignores fields it does not know, and refuses messages it does not know."""
        self.assertEqual(decode_reply(b'{"type": "rewound", "job": "j", "run": 2, "why": "x"}'), Rewound("j", 2))
        self.assertRaises(BadInput, decode_reply, b'{"type": "sung", "job": "j"}')
        self.assertRaises(BadInput, decode_reply, b"\xff")

    def test_stored_results(self) -> None:
        """A stored result comes back; one of another version is refused."""
        log = [Ended(1, PageRecord(URL, 0, "fetched")), Moved(2, URL, 0, ""), Linked(3, URL, URL)]
        stored = StoredResult(URL, 1, "done", 4, Receipt(1, 1, {}, {}, True), log)
        self.assertEqual(unpack_result(pack(stored)), stored)
        later = StoredResult(URL, 1, "done", 4, Receipt(1, 1, {}, {}, True), log, version=2)
        self.assertEqual(self.assertRaises(BadInput, unpack_result, pack(later)).code, "version")
        self.assertRaises(BadInput, unpack_result, b"\x00\x01")

    def test_cursors(self) -> None:
        """A cursor is its run and its sequence number."""
        self.assertEqual(parse_cursor(cursor(3, 120)), (3, 120))

    @given(st.text(max_size=200))
    def test_shown(self, text: str) -> None:
        """What is shown of a value is short, one line, and holds no control characters."""
        self.assertTrue(shown(text).isprintable())
        self.assertLessEqual(len(shown(text)), 60)
