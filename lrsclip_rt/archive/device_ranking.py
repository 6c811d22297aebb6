"""Rankings of a GPU: every row is scored there, and the best of them once more here.

The kernel's sums run in another order than those of ``scanning.row_scores``, so its scores find candidates
only: every row that could belong to the best within the difference of two orders is scored again. Rows,
scores and ties are those of an exact search without a GPU.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.exact_scanning import rescored
from lrsclip_rt.archive.scanning import Ranked, best_rows
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.cuda.device import Device, device_index
from lrsclip_rt.cuda.device_search import DeviceRows
from lrsclip_rt.cuda.driver import cuda_driver

__all__ = ["DeviceRanking"]

_SPARE = 32


class DeviceRanking:
    """The rows of a snapshot on a GPU; threads take turns. Its memory is free when nobody holds it any more.

    Args:
        segments: All of the snapshot, with at least one row.
        device: ``cuda`` or ``cuda:N``.

    Raises:
        BackendError: If there is no such GPU, or its kernels cannot be compiled.
        DeviceMemoryError: If the rows do not fit.
        InputError: If D is no multiple of 8.
    """

    def __init__(self, segments: Sequence[Segment], device: str) -> None:
        self._segments = segments
        self._lock = threading.Lock()
        opened = Device(cuda_driver(), device_index(device))
        try:
            self._rows = DeviceRows(opened, [segment.f16 for segment in segments if len(segment.f16)])
        except BaseException:
            opened.close()
            raise
        self._most = _most_rows(opened.info.shared_bytes)
        weakref.finalize(self, _free, self._rows, opened)

    @property
    def bytes(self) -> int:
        """What the rows take on the GPU."""
        return self._rows.bytes

    def best(
        self,
        queries: NDArray[np.float32],
        count: int,
        passing: Sequence[NDArray[np.bool_]] | None,
        rows: int,
    ) -> list[Ranked]:
        """The ``count`` best rows of each query, by score and then by row.

        Args:
            queries: ``(Q, D)`` float32 unit rows.
            count: At least 1.
            passing: Per segment the rows that take part, ``(N,)`` bool; None for all.
            rows: How many take part.

        Raises:
            DeviceMemoryError: If there is no memory for the candidates.
        """
        found: dict[int, Ranked] = {}
        if rows == 0:
            return [Ranked(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        mask = None if passing is None else np.concatenate(passing)
        margin = np.float32(2 * queries.shape[1] * np.finfo(np.float32).eps)
        asked = min(count + _SPARE, rows)
        while asked <= self._most and len(found) < len(queries):
            waiting = [q for q in range(len(queries)) if q not in found]
            with self._lock:
                roughs = self._rows.search(queries[waiting], asked, passing=mask)
            for q, rough in zip(waiting, roughs, strict=True):
                ranked = rescored(self._segments, rough.rows, queries[q], count)
                if asked == rows or rough.scores.min() < ranked.scores[-1] - margin:
                    found[q] = ranked
            asked = min(4 * asked, rows)
        # Rankings longer than a block's shared memory holds, or thousands of equal rows: the plain scan.
        for q in range(len(queries)):
            if q not in found:
                found[q] = best_rows(self._segments, queries[q : q + 1], count, passing=passing)[0]
        return [found[q] for q in range(len(queries))]


def _most_rows(shared_bytes: int) -> int:
    """The longest ranking that the kernel keeps in a block's shared memory."""
    from lrsclip_kernels.launches import topk_capacity, topk_shared_bytes

    most = topk_capacity(1)
    while topk_shared_bytes(2 * most, "f16") <= shared_bytes:
        most *= 2
    return most


def _free(rows: DeviceRows, device: Device) -> None:
    rows.close()
    device.close()
