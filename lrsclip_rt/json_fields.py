"""Take a JSON object apart key by key, strictly; every deviation is a ``BundleError`` with the key's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from lrsclip_rt.errors import BundleError

__all__ = ["Fields"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Fields:
    """A JSON object that is emptied key by key; what is left at the end was not expected."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(f"{where} must be an object, got {value!r:.60}")
        self._values = dict(value)
        self._where = where

    @classmethod
    def from_json(cls, text: str, where: str) -> Fields:
        """Parse a JSON object, refusing what ``json`` would let pass: keys given twice, NaN, Infinity."""
        try:
            value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not valid JSON: {error}") from error
        return cls(value, where)

    def has(self, key: str) -> bool:
        """``key`` is there and was not taken yet."""
        return key in self._values

    def take(self, key: str, *, optional: bool = False) -> Any:
        """Remove and return any value."""
        if key not in self._values and not optional:
            raise BundleError(f"{self._where} lacks the key {key!r}")
        return self._values.pop(key, None)

    def group(self, key: str) -> Fields:
        """Remove and return an object."""
        return Fields(self.take(key), f"{self._where}: {key}")

    def items(self) -> Iterable[tuple[str, Any]]:
        """What is left, for objects whose keys are names."""
        return self._values.items()

    def text(self, key: str) -> str:
        """Remove and return a text."""
        value = self.take(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        return value

    def sha256(self, key: str) -> str:
        """Remove and return a SHA-256 in hex."""
        value = self.text(key)
        if not _SHA256.fullmatch(value):
            raise self._wrong(key, "64 lower-case hex digits", value)
        return value

    def integer(self, key: str, *, minimum: int, maximum: int = 1 << 48) -> int:
        """Remove and return a whole number within bounds."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._wrong(key, f"a whole number from {minimum} to {maximum}", value)
        return value

    def number(self, key: str, *, positive: bool = False) -> float:
        """Remove and return a finite number."""
        value = self.take(key)
        if not _is_number(value) or (positive and value <= 0):
            raise self._wrong(key, "a positive number" if positive else "a number", value)
        return float(value)

    def triple(self, key: str, *, positive: bool = False) -> tuple[float, float, float]:
        """Remove and return three finite numbers."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
            raise self._wrong(key, "three numbers", value)
        if positive and min(value) <= 0:
            raise self._wrong(key, "three positive numbers", value)
        return float(value[0]), float(value[1]), float(value[2])

    def texts(self, key: str) -> tuple[str, ...]:
        """Remove and return distinct texts."""
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of texts", value)
        if len(set(value)) != len(value):
            raise self._wrong(key, "a list without duplicates", value)
        return tuple(value)

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._values:
            unknown = ", ".join(repr(key[:40]) for key in list(self._values)[:5])
            raise BundleError(
                f"{self._where} has unknown keys: {unknown}. Was it written by a newer version?"
            )

    def _wrong(self, key: str, expected: str, value: Any) -> BundleError:
        return BundleError(f"{self._where}: {key} must be {expected}, got {value!r:.60}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Also false for whole numbers beyond any float, where isfinite would raise.
    return abs(value) < 1e300
