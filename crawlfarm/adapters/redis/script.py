"""The frontier's Lua script as one text, and calling it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Any

import msgpack


@cache
def source() -> str:
    """The pieces in ``lua/``, one after the other."""
    folder = resources.files("crawlfarm.adapters.redis") / "lua"
    pieces = sorted((piece for piece in folder.iterdir() if piece.name.endswith(".lua")), key=lambda p: p.name)
    return "\n".join(piece.read_text("utf-8") for piece in pieces)


@cache
def sha() -> str:
    return hashlib.sha1(source().encode(), usedforsecurity=False).hexdigest()


def pack(arguments: dict[str, Any]) -> bytes:
    """Arguments as Redis' ``cmsgpack`` reads them: it knows no binary type, only strings."""
    packed: bytes = msgpack.packb(arguments, use_bin_type=False)
    return packed


def unpack(answer: bytes) -> Any:
    """An answer; its texts are UTF-8."""
    return msgpack.unpackb(answer, strict_map_key=False)
