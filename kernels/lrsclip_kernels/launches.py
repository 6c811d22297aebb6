"""What launches of the top-k kernels must agree on with the sources: capacities and shared memory."""

from __future__ import annotations

from typing import Literal

__all__ = ["topk_blocks", "topk_capacity", "topk_merge_shared_bytes", "topk_shared_bytes"]

_ROWS, _QUERIES, _PITCH = 128, 4, 9
_KEY_BYTES = 8
# Eight dimensions of a row, and of a query, in shared memory.
_GROUP_BYTES = {"f16": (16, 32), "i8": (8, 8)}


def topk_capacity(k: int) -> int:
    """Keys that a block keeps sorted for ``k`` best rows: the power of two from 256 on.

    Example:
        >>> topk_capacity(10), topk_capacity(300)
        (256, 512)
    """
    return max(256, 1 << (k - 1).bit_length())


def topk_shared_bytes(capacity: int, rows: Literal["f16", "i8"]) -> int:
    """Shared memory of a block of ``topk_f16`` or ``topk_i8``; above 49,152 a kernel has to ask for it.

    Example:
        >>> topk_shared_bytes(256, "f16"), topk_shared_bytes(256, "i8")
        (35856, 25872)
    """
    row_group, query_group = _GROUP_BYTES[rows]
    lists = _QUERIES * (2 * capacity * _KEY_BYTES + 4)
    return lists + _ROWS * _PITCH * row_group + _QUERIES * (_PITCH - 1) * query_group


def topk_merge_shared_bytes(capacity: int) -> int:
    """Shared memory of a block of ``topk_merge``."""
    return 2 * capacity * _KEY_BYTES + 4


def topk_blocks(rows: int, rows_per_block: int, queries: int) -> tuple[int, int, int]:
    """Grid of the first pass.

    Example:
        >>> topk_blocks(1_000_000, 4096, 5)
        (245, 2, 1)
    """
    return -(-rows // rows_per_block), -(-queries // _QUERIES), 1
