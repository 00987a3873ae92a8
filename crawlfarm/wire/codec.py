"""Bytes to messages and back, with errors that name the place.

:func:`decode_request` is what stands between the world and the gateway: whatever
arrives, it returns a message or raises :class:`~crawlfarm.errors.BadInput`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from crawlfarm.errors import BadInput
from crawlfarm.wire import client
from crawlfarm.wire.jobs import JobOptions
from crawlfarm.wire.pages import StoredResult

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<place>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>.*)`", re.DOTALL)
_RANGE = re.compile(r"^Expected `(?P<type>\w+)`(?P<how> matching regex | )(?P<bound>\S.*)$", re.DOTALL)
_REQUESTS: dict[str, type[client.Request]] = {
    "submit": client.Submit,
    "resume": client.Resume,
    "cancel": client.Cancel,
    "status": client.Status,
}
_MAX_SHOWN = 60


def shown(value: object) -> str:
    """A value as an error message may show it: short, one line, no control characters."""
    text = repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise BadInput(f"the field {shown(name)} is there twice", code="duplicate_key", path=name[:_MAX_SHOWN])
        seen[name] = value
    return seen


def _constant(name: str) -> Any:
    raise BadInput(f"{name} is not JSON", code="not_json")


def _check_text(text: str) -> None:
    # A lone surrogate is valid in JSON text but cannot be sent on as UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("the text holds a lone surrogate, which is not Unicode", code="not_utf8") from None


def load_object(payload: bytes, limit: int = client.MAX_REQUEST_BYTES) -> dict[str, Any]:
    """The JSON object in ``payload``, strictly: no duplicate keys, no NaN, no deep nest.

    :raises BadInput: ``too_long``, ``not_utf8``, ``not_json``, ``too_deep``,
        ``duplicate_key`` or ``not_an_object``.
    """
    if len(payload) > limit:
        raise BadInput(f"the message has {len(payload)} bytes; at most {limit} are taken", code="too_long")
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as e:
        raise BadInput(f"the message is not UTF-8 (byte {e.start})", code="not_utf8") from e
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        _check_text(json.dumps(value, ensure_ascii=False))
    except RecursionError as e:
        raise BadInput("the message is nested too deeply", code="too_deep") from e
    except json.JSONDecodeError as e:
        raise BadInput(f"the message is not JSON: {e.msg} at character {e.pos}", code="not_json") from e
    except ValueError as e:  # an integer of thousands of digits
        raise BadInput("the message holds a number too long to read", code="not_json") from e
    if not isinstance(value, dict):
        raise BadInput(f"the message must be a JSON object, not {_kind(value)}", code="not_an_object")
    return value


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def decode_request(payload: bytes) -> client.Request:
    """One message of a client.

    :raises BadInput: with the code and the path of what is wrong.
    """
    fields = load_object(payload)
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in _REQUESTS:
        allowed = ", ".join(_REQUESTS)
        what = "there is no type" if "type" not in fields else f"{shown(kind)} is not a type"
        raise BadInput(f"type: {what}; it is one of {allowed}", code="unknown_type", path="type")
    return convert(fields, _REQUESTS[kind])


def convert(fields: object, kind: type[T], at: str = "") -> T:
    """``fields`` as a ``kind``, or :class:`BadInput` with a dotted path below ``at``."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as e:
        raise _explain(str(e), fields, kind, at) from None


def _explain(text: str, fields: object, kind: type[Any], at: str) -> BadInput:
    found = _PLACE.match(text)
    what, place = (found["what"], found["place"] or "$") if found else (text, "$")
    path = ".".join(p for p in (at, place.removeprefix("$").lstrip(".")) if p)
    if unknown := _UNKNOWN.search(what):
        name = unknown["name"]
        within = JobOptions if path.endswith("options") else kind
        allowed = ", ".join(f for f in getattr(within, "__struct_fields__", ()))
        path = ".".join(p for p in (path, name) if p)
        noun = "option" if within is JobOptions else "field"
        return BadInput(f"{path}: there is no such {noun}; known are {allowed}", code=f"unknown_{noun}", path=path)
    if missing := _MISSING.search(what):
        path = ".".join(p for p in (path, missing["name"]) if p)
        return BadInput(f"{path}: it is missing", code="missing_field", path=path)
    value = _value_at(fields, place)
    if what.startswith(("Expected `int` >=", "Expected `int` <=")):
        return BadInput(f"{path}: {shown(value)} is out of range; {_bounds(path)}", code="out_of_range", path=path)
    if "matching regex" in what or "length" in what:
        return BadInput(f"{path}: {shown(value)} is not allowed; {_bounds(path)}", code="out_of_range", path=path)
    if what.startswith("Invalid enum value"):
        return BadInput(f"{path}: {shown(value)} is not allowed; {_bounds(path)}", code="out_of_range", path=path)
    expected = _TYPES.sub(_in_words, what).replace(", got", ", not").replace("Expected", "must be")
    return BadInput(f"{path or 'the message'}: {expected}", code="wrong_type", path=path)


def _in_words(types: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types[1].split(" | "))


_TYPES = re.compile("`([^`]*)`")
_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a decimal number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
}
_ALLOWED = {
    "depth": "1 to 1000 is allowed",
    "max_pages": "1 to 1000000000 is allowed",
    "scope": "it is one of any, host",
    "id": "1 to 128 characters without control characters",
    "job": "1 to 128 characters without control characters",
    "after": "it has the form run.seq, as in 3.120",
}


def _bounds(path: str) -> str:
    return _ALLOWED.get(path.rpartition(".")[2], "see the protocol")


def _value_at(fields: object, place: str) -> object:
    value = fields
    for name in place.removeprefix("$").split("."):
        if name:
            value = value.get(name) if isinstance(value, dict) else value
    return value


encode_json = msgspec.json.Encoder().encode
"""Any message as JSON bytes."""

_decode_reply: Callable[[bytes], client.Reply] = msgspec.json.Decoder(client.Reply).decode


def decode_reply(payload: bytes) -> client.Reply:
    """One message of a gateway, for clients. Fields of a later version are ignored.

    :raises BadInput: when it is none.
    """
    try:
        return _decode_reply(payload)
    except (msgspec.ValidationError, msgspec.DecodeError) as e:
        raise BadInput(f"the gateway sent something unknown: {e}", code="unknown_type") from e


pack = msgspec.msgpack.Encoder().encode
"""Any message as MessagePack bytes."""


def unpack(data: bytes, kind: type[T]) -> T:
    """:raises BadInput: when ``data`` is not a ``kind``."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as e:
        raise BadInput(f"not a {kind.__name__}: {e}", code="wrong_type") from e


def unpack_result(data: bytes) -> StoredResult:
    """A stored result, refusing formats this version does not know."""
    result = unpack(data, StoredResult)
    if result.version != 1:
        raise BadInput(f"a stored result has version {result.version}; this program reads 1", code="version")
    return result
