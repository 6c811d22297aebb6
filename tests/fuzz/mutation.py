"""Damage to bytes: what breaks in transit, and what somebody writes who knows the format."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

__all__ = ["HOSTILE_TEXTS", "mutated_bytes", "mutated_json", "mutated_text", "places"]

_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_LONG_NUMBERS = (*_NUMBERS, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")
_WRITTEN = (b"0", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"NaN", b"-0.0", b"0.5", b"2147483648", b"1e-320")
_MOST_BYTES = 1 << 20

HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "C:\\windows",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "/vsicurl/http://127.0.0.1:9/x",
    "postgresql://u:p@h/d",
    "\ud800",
    "\u202e\u0000\u001b[2J",
    "{}",
    "{0.__class__}",
    "%s%n",
    "'; DROP TABLE tiles; --",
    "<|endoftext|>",
    "&amp;" * 40,
    "A" * 5000,
    "((((a*)*)*)*)*b",
    "1" * 400,
    "é\u0301" * 200,
    "\U0001d518\U0001d52b",
    "nan",
    "inf",
    "0x10",
    "1_0",
    "٣",
)


def mutated_bytes(data: bytes, rng: Random) -> bytes:
    """A few changes of any kind; never longer than a megabyte."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(_BYTE_CHANGES)(content, rng)
    return bytes(content[:_MOST_BYTES])


def _place(content: bytearray, rng: Random) -> int:
    """Anywhere, but more often at either end, where headers and directories lie."""
    length = max(1, len(content))
    near = min(length, 96)
    return rng.choice((rng.randrange(length), rng.randrange(near), length - 1 - rng.randrange(near)))


def _flip(content: bytearray, rng: Random) -> None:
    if content:
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _set(content: bytearray, rng: Random) -> None:
    if content:
        content[_place(content, rng)] = rng.choice((0, 1, 2, 8, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(content: bytearray, rng: Random) -> None:
    """A count, length or offset of 2, 4 or 8 bytes."""
    form, bits = rng.choice((("H", 16), ("I", 32), ("Q", 64)))
    value = rng.choice((rng.choice(_LONG_NUMBERS), len(content), len(content) + 1, rng.getrandbits(bits)))
    packed = struct.pack(rng.choice("<>") + form, value % (1 << bits))
    place = _place(content, rng)
    content[place : place + len(packed)] = packed


def _cut(content: bytearray, rng: Random) -> None:
    del content[_place(content, rng) :]


def _remove(content: bytearray, rng: Random) -> None:
    place = _place(content, rng)
    del content[place : place + rng.choice((1, 2, 4, 16, 200))]


def _insert(content: bytearray, rng: Random) -> None:
    place, length = _place(content, rng), rng.choice((1, 4, 16, 300))
    content[place:place] = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))


def _repeat(content: bytearray, rng: Random) -> None:
    place, length = _place(content, rng), rng.choice((1, 4, 64, 1000))
    part = bytes(content[place : place + length])
    content[place:place] = part * rng.choice((1, 2, 50))


def _move(content: bytearray, rng: Random) -> None:
    source, target, length = _place(content, rng), _place(content, rng), rng.choice((2, 4, 8, 40))
    content[target : target + length] = content[source : source + length]


def _written_number(content: bytearray, rng: Random) -> None:
    """A number written in digits."""
    found = list(_DIGITS.finditer(bytes(content[:65_536])))
    if found:
        match = rng.choice(found)
        content[match.start() : match.end()] = rng.choice(_WRITTEN)


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip,
    _set,
    _number,
    _number,
    _cut,
    _remove,
    _insert,
    _repeat,
    _move,
    _written_number,
)


def mutated_text(text: str, rng: Random) -> str:
    """A text of a person or of somebody hostile."""
    kind = rng.randrange(6)
    place = rng.randrange(len(text) + 1)
    if kind == 0:
        return rng.choice(HOSTILE_TEXTS)
    if kind == 1:
        return text[:place] + rng.choice(HOSTILE_TEXTS) + text[place:]
    if kind == 2:
        return text[:place] + chr(
            rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)))
        )
    if kind == 3:
        return text[:place] + text[place + rng.choice((1, 2, 8)) :]
    if kind == 4:
        return text[:place] * rng.choice((2, 3, 20)) + text[place:]
    return mutated_bytes(text.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "surrogateescape")


def mutated_json(data: bytes, rng: Random) -> bytes:
    """JSON of another content, or no JSON any more."""
    if rng.randrange(5) == 0:
        return mutated_bytes(data, rng)
    try:
        record = json.loads(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            record = _with_change(record, rng)
        text = json.dumps(record, ensure_ascii=rng.randrange(2) == 0)
    except (ValueError, RecursionError):
        return mutated_bytes(data, rng)
    if rng.randrange(12) == 0:
        text = _with_double_key(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _with_change(record: Any, rng: Random) -> Any:
    found = list(places(record))
    if not found:
        return _value(record, rng)
    holder, key = rng.choice(found)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice((*HOSTILE_TEXTS, str(key) + "x"))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice((*HOSTILE_TEXTS, "type", "id", "crs"))] = _value(holder[key], rng)
    elif kind == 3:
        other, name = rng.choice(found)
        if name in other if isinstance(other, dict) else name < len(other):
            # Through text, or a value that comes to hold itself could not be written any more.
            holder[key] = json.loads(json.dumps(other[name]))
    elif kind == 4 and isinstance(holder, list):
        holder.extend(json.loads(json.dumps(holder[:50])))
    else:
        holder[key] = _value(holder[key], rng)
    return record


def places(value: Any) -> Any:
    """Every (container, key or index) inside a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from places(inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from places(inner)


def _value(old: Any, rng: Random) -> Any:
    """Another value: near the old one, of another type, or hostile."""
    kind = rng.randrange(6)
    if kind == 0 and isinstance(old, (int, float)) and not isinstance(old, bool):
        return rng.choice((old + 1, old - 1, -old, old * 1000, 0, old // 3))
    if kind == 1 and isinstance(old, str):
        return mutated_text(old, rng)
    if kind == 2:
        return rng.choice(HOSTILE_TEXTS)
    if kind == 3:
        return rng.choice((None, True, False, [], {}, [[]], {"": {}}, [None], "x"))
    if kind == 4:
        deep: Any = rng.choice((1, "x", []))
        for _ in range(rng.choice((1, 5, 60, 400))):
            deep = [deep] if rng.randrange(2) else {"a": deep}
        return deep
    return rng.choice(
        (
            *(
                0,
                -1,
                1,
                2**31,
                2**53,
                2**63,
                2**64,
                -(2**63) - 1,
                10**30,
                10**400,
                1e308,
                -1e308,
                1e-320,
                0.5,
            ),
            *(float("nan"), float("inf"), float("-inf"), 180.0, -90.0, 4326),
        )
    )


def _with_double_key(text: str, rng: Random) -> str:
    keys = list(re.finditer(r'"(?:[^"\\]|\\.)*"\s*:', text))
    if not keys:
        return text
    match = rng.choice(keys)
    return f"{text[: match.start()]}{match.group()} null, {text[match.start() :]}"
