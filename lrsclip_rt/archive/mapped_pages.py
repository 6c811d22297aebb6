"""Memory-mapped columns count as resident once touched; searching a large archive gives them back."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

__all__ = ["KEPT_BYTES", "RESIDENT_BYTES", "PageBudget", "release_pages"]

KEPT_BYTES = 5 << 28
"""An archive whose vectors are no more than this keeps what it touched: 1.25 GiB, some 1.3 million rows."""
RESIDENT_BYTES = 256 << 20
"""Mapped vectors that searches of a larger one keep resident."""
_TOUCHED_BYTES = 1 << 18
"""What one scattered read makes resident: the pages around it, and what the system reads ahead."""


def release_pages(array: NDArray[Any]) -> bool:
    """Give the resident pages of a memory-mapped array back; what the system caches stays cached.

    Returns:
        False where the array is no memory map, or the system cannot.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is None or not hasattr(mmap, "MADV_DONTNEED"):
        return False
    with contextlib.suppress(OSError):
        base.madvise(mmap.MADV_DONTNEED)
        return True
    return False


class PageBudget:
    """Counts what searches touch of some mapped arrays, and releases it before it becomes too much.

    Args:
        arrays: The vectors of every segment.
        limit: Bytes that may stay resident.
        kept: Nothing is released where all arrays together have no more bytes.
    """

    def __init__(
        self, arrays: Sequence[NDArray[Any]], limit: int = RESIDENT_BYTES, *, kept: int = KEPT_BYTES
    ) -> None:
        self._arrays = arrays
        self._limit = limit
        self._touched = 0
        self._needed = sum(array.nbytes for array in arrays) > kept

    def touched(self, *, rows: int = 0, scanned_bytes: int = 0) -> None:
        """Count scattered rows and bytes that were read in one go."""
        if not self._needed:
            return
        self._touched += rows * _TOUCHED_BYTES + scanned_bytes
        if self._touched > self._limit:
            for array in self._arrays:
                release_pages(array)
            self._touched = 0
