"""Conditions on the metadata of sources: ``eo:cloud_cover<=20``, ``platform!=landsat-8``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.guarding import reading, refuse_unless
from lrsclip_rt.errors import InputError

__all__ = ["Condition", "sources_having", "sources_meeting"]

_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_SPLIT = re.compile(r"(.*?)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; a source without the key never meets it.

    ``=`` and its opposite ``!=`` compare texts, character by character. The others compare numbers where
    ``value`` is one, and a source whose own value is none does not meet them; otherwise they compare
    texts, which puts dates of ISO 8601 in order.

    Attributes:
        key: Name in the metadata.
        sign: ``=``, ``!=``, ``>=``, ``<=``, ``>`` or ``<``.
        value: What it is compared with.

    Raises:
        InputError: If the key is empty or the sign is another.

    Example:
        >>> cloudless = Condition.from_text("eo:cloud_cover<=20")
        >>> cloudless.is_met("9.5"), cloudless.is_met("unknown"), cloudless.is_met("100")
        (True, False, False)
    """

    key: str
    sign: str
    value: str

    def __post_init__(self) -> None:
        if not self.key or (self.sign not in _ORDERED and self.sign not in ("=", "!=")):
            signs = "=, !=, " + ", ".join(_ORDERED)
            raise InputError(
                f"{self} is no condition; expected KEY, one of {signs}, and a value, as in eo:cloud_cover<=20"
            )

    def __str__(self) -> str:
        return f"{self.key}{self.sign}{self.value}"

    @classmethod
    def from_text(cls, text: str) -> Condition:
        """Parse ``KEY<=VALUE`` and the like; the first sign counts, so values may hold others.

        Raises:
            InputError: If there is no sign, or nothing before it.
        """
        match = _SPLIT.fullmatch(text)
        if match is None:
            return cls(text, "", "")  # refused there
        return cls(match[1].strip(), match[2], match[3])

    def is_met(self, value: str) -> bool:
        """Whether a source with this value passes."""
        if self.sign in ("=", "!="):
            return (value == self.value) == (self.sign == "=")
        limit, own = _number(self.value), _number(value)
        if limit is None:
            return _ORDERED[self.sign](value, self.value)
        return own is not None and _ORDERED[self.sign](own, limit)


def sources_meeting(catalog: Catalog, conditions: Sequence[Condition]) -> set[int]:
    """Numbers of the sources that meet every condition.

    Raises:
        InputError: If no source has a key of this name.
    """
    found: set[int] | None = None
    for condition in conditions:
        values = _values(catalog, condition.key)
        meeting = {source for source, value in values.items() if condition.is_met(value)}
        found = meeting if found is None else found & meeting
    return found or set()


def sources_having(catalog: Catalog, keys: Iterable[str]) -> set[int]:
    """Numbers of the sources that have every key, whatever its value."""
    found: set[int] | None = None
    for key in dict.fromkeys(keys):
        having = set(_values(catalog, key))
        found = having if found is None else found & having
    return found or set()


def _values(catalog: Catalog, key: str) -> dict[int, str]:
    """The value of every source that has the key.

    Raises:
        InputError: If none has, in an archive with sources.
        ArchiveCorruptError: If a stored value is none that was written.
    """
    with reading(catalog.path):
        values = dict(catalog.rows("SELECT source, value FROM metadata WHERE key = ?", (key,)))
        for source, value in values.items():
            refuse_unless(isinstance(source, int) and isinstance(value, str), f"metadata {key} of {source}")
        known = catalog.rows("SELECT DISTINCT key FROM metadata ORDER BY key") if not values else []
        keys = [row[0] for row in known]
        refuse_unless(all(isinstance(name, str) for name in keys), "a key of metadata")
    if not values and catalog.rows("SELECT 1 FROM sources LIMIT 1"):
        raise InputError(
            f"no source of this archive has metadata {key!r}; known keys: {', '.join(keys) or 'none'}"
        )
    return values


def _number(text: str) -> float | None:
    """A finite decimal number; not what Python takes for one besides, such as ``1_0`` or ``nan``."""
    stripped = text.strip()
    if not _NUMBER.fullmatch(stripped):
        return None
    value = float(stripped)
    return value if math.isfinite(value) else None
