"""From a client's words to a checked job, and the keys it is known by."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.jobs import body_digest, cache_key, flight_key, job_spec, parse_depth, parse_options
from crawlfarm.errors import BadInput, InvalidURL
from crawlfarm.wire.jobs import JobOptions, JobSpec
from tests.support.examples import examples


class DepthTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """A whole number from 1 to 1,000, as text or number."""
        for value, depth in (("1", 1), ("1000", 1000), (" 7 ", 7), (3, 3), ("007", 7)):
            self.assertEqual(parse_depth(value), depth)

    def test_refused(self) -> None:
        """Anything else is refused by name: no number as ``wrong_type``, others as ``out_of_range``."""
        for code, values in {
            "wrong_type": ["", "x", "1.5", 1.5, "1e3", "0x10", "١", "²", "--1", "+1", None, "1 2", "1_0", "-"],
            "out_of_range": ["0", "-1", 0, -5, "1001", 10**9, "9" * 5000, "-0"],
        }.items():
            for value in values:
                with self.assertRaises(BadInput, msg=repr(value)) as caught:
                    parse_depth(value)
                self.assertEqual((caught.exception.code, caught.exception.path), (code, "depth"), repr(value)[:20])
                self.assertTrue(caught.exception.message.startswith("depth: "))
                self.assertLess(len(caught.exception.message), 200)

    @examples(300)
    @given(st.text(max_size=12) | st.integers() | st.floats())
    def test_anything(self, value: object) -> None:
        """Whatever is given, the answer is a depth that may be crawled, or BadInput."""
        with contextlib.suppress(BadInput):
            self.assertIn(parse_depth(value), range(1, 1001))


class OptionsTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """Every option by its name; none is needed."""
        self.assertEqual(parse_options({}), JobOptions())
        told = {"scope": "host", "max_pages": 3, "detach": True, "stream": True}
        self.assertEqual(parse_options(told), JobOptions(**told))

    def test_refused(self) -> None:
        """Unknown names, wrong types and values out of range are refused with their place."""
        refused: list[tuple[dict[str, Any], str, str]] = [
            ({"robots": True}, "unknown_option", "options.robots"),
            ({"max_pages": 0}, "out_of_range", "options.max_pages"),
            ({"max_pages": 10**10}, "out_of_range", "options.max_pages"),
            ({"max_pages": "3"}, "wrong_type", "options.max_pages"),
            ({"max_pages": True}, "wrong_type", "options.max_pages"),
            ({"scope": "galaxy"}, "out_of_range", "options.scope"),
            ({"detach": 1}, "wrong_type", "options.detach"),
        ]
        for fields, code, path in refused:
            with self.assertRaises(BadInput, msg=str(fields)) as caught:
                parse_options(fields)
            self.assertEqual((caught.exception.code, caught.exception.path), (code, path), str(fields))


class SpecTests(SynchronousTestCase):
    def test_spec(self) -> None:
        """A job keeps the URL as it was spelled, and the options that change its answer."""
        options = JobOptions(scope="host", max_pages=5, detach=True, stream=True)
        self.assertEqual(
            job_spec(" http://A.test/#x ", 3, options), JobSpec("http://A.test/#x", 3, scope="host", max_pages=5)
        )
        self.assertRaises(InvalidURL, job_spec, "ftp://a.test/", 3, options)


class KeyTests(SynchronousTestCase):
    SPEC = JobSpec("http://a.test/?x=1&y=2", 3)

    def test_same_question(self) -> None:
        """Other spellings of a URL ask the same question."""
        for url in ("http://a.test/?y=2&x=1", "HTTP://A.test/?x=1&y=2#top"):
            other = JobSpec(url, 3)
            self.assertEqual(flight_key(other), flight_key(self.SPEC))
            self.assertEqual(cache_key(other), cache_key(self.SPEC))

    def test_other_questions(self) -> None:
        """Whatever changes the answer makes another key; the depth not that of the cache."""
        specs = [
            self.SPEC,
            JobSpec(self.SPEC.url, 3, scope="host"),
            JobSpec(self.SPEC.url, 3, max_pages=1),
            JobSpec(self.SPEC.url, 3, max_pages=2),
            JobSpec(self.SPEC.url, 3, spider="mine"),
            JobSpec("http://a.test/?x=1&y=3", 3),
            JobSpec("https://a.test/?x=1&y=2", 3),
        ]
        for key in (flight_key, cache_key):
            self.assertEqual(len({key(spec) for spec in specs}), len(specs))
        deeper = JobSpec(self.SPEC.url, 4)
        self.assertNotEqual(flight_key(deeper), flight_key(self.SPEC))
        self.assertEqual(cache_key(deeper), cache_key(self.SPEC))

    def test_body(self) -> None:
        """Two submissions are the same when every word of them is; not just the question."""
        bodies = [
            ("http://a.test/", 3, JobOptions()),
            ("http://a.test/#x", 3, JobOptions()),
            ("http://a.test/", 4, JobOptions()),
            ("http://a.test/", 3, JobOptions(detach=True)),
            ("http://a.test/", 3, JobOptions(max_pages=9)),
        ]
        for one, other in itertools.combinations(bodies, 2):
            self.assertNotEqual(body_digest(*one), body_digest(*other))
        self.assertEqual(body_digest(*bodies[0]), body_digest("http://a.test/", 3, JobOptions(scope="any")))

    def test_digests_last(self) -> None:
        """They are kept in databases: the same in every process and version."""
        self.assertEqual(flight_key(JobSpec("http://a.test/", 3)), "23a6b36912d029f21718b75e84988bae")
        self.assertEqual(cache_key(JobSpec("http://a.test/", 3)), "e441daa2b3d4b7d3e1fd3cc382cab722")
        self.assertEqual(body_digest("http://a.test/", 3, JobOptions()), "663098055d92204aecaf450572e09f6e")
