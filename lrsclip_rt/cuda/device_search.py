"""An archive's vectors on the device, searched exactly: float16 or int8 rows, ties to the lower row.

The twin on the CPU is ``archive.scanning.best_rows``. Sums of float16 rows run in another order there, so
that scores differ by rounding; int8 rows and whole numbers rank alike to the bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.scanning import Ranked
from lrsclip_rt.archive.segments import int8_from_rows
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.kernels import Argument, KernelModule, cubin_for
from lrsclip_rt.cuda.memory import DeviceBuffer, DevicePool, PinnedBuffer
from lrsclip_rt.cuda.staging import Staging, staged_bytes
from lrsclip_rt.cuda.streams import Event, Stream
from lrsclip_rt.errors import InputError

__all__ = ["DeviceRows"]

_PIECE_BYTES = 32 << 20
_DIM_MULTIPLE = 8
_BLOCKS_PER_MULTIPROCESSOR = 8
_LEAST_ROWS_PER_BLOCK = 1024
_MOST_QUERIES = 1024
_KEY_BYTES, _RESULT_BYTES = 8, 12
"""A candidate; a row's number and its score."""


class DeviceRows:
    """Rows that stay on the device; not to be shared between threads.

    Args:
        device: The GPU.
        rows: Parts of N rows in all, in their order: ``(n, D) float16``; or int8 codes with ``scales``.
        scales: Of int8 rows, ``(n,) float32`` for each part.
        module: The kernels; default compiled for the device, or taken from the cache.

    Raises:
        InputError: If there are no rows, D is no multiple of 8, or types and shapes do not agree.
        BackendError: If the kernels cannot be compiled or loaded.
        DeviceMemoryError: If the rows do not fit.
    """

    def __init__(
        self,
        device: Device,
        rows: Sequence[NDArray[np.float16]] | Sequence[NDArray[np.int8]],
        *,
        scales: Sequence[NDArray[np.float32]] | None = None,
        module: KernelModule | None = None,
    ) -> None:
        from lrsclip_kernels import TOPK

        self.count, self.dim = _checked(rows, scales)
        self._kind = "i8" if scales is not None else "f16"
        self._device = device
        self._threads = (TOPK.threads, 1, 1)
        self._held: list[DeviceBuffer] = []
        with device.current():
            driver = device.driver
            self._module = module or KernelModule(driver, cubin_for(TOPK, device.info.architecture))
            self._stream = Stream(driver)
            self._staging = Staging(device)
            self._pool = DevicePool(driver)
            self._pinned: PinnedBuffer | None = None
            try:
                self._rows = self._uploaded(rows)
                self._scales = self._uploaded(scales) if scales is not None else None
                self._passing: DeviceBuffer | None = None
            except BaseException:
                self._free()
                raise

    def __len__(self) -> int:
        return self.count

    @property
    def bytes(self) -> int:
        """What the rows take on the device."""
        return self._rows.size_bytes + (self._scales.size_bytes if self._scales is not None else 0)

    def search(
        self, queries: NDArray[np.float32], k: int, *, passing: NDArray[np.bool_] | None = None
    ) -> list[Ranked]:
        """The ``k`` best rows of each query, by score and then by row.

        Args:
            queries: ``(Q, D) float32`` unit rows.
            k: How many, at least 1.
            passing: The rows that take part, ``(N,)``; None for all.

        Returns:
            One ranking for each query; shorter than ``k`` where fewer rows take part.

        Raises:
            InputError: If the shapes do not agree, or the device has not the shared memory for ``k``.
            DeviceMemoryError: If there is no memory for the candidates.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(
                f"rows {self.count, self.dim} and queries {queries.shape} must agree in D; "
                "embed both with the same model"
            )
        if passing is not None and passing.shape != (self.count,):
            raise InputError(f"got {passing.shape} marks for {self.count} rows, expected one for each")
        with self._device.current():
            mask = self._mask(passing)
            parts = range(0, len(queries), _MOST_QUERIES)
            found = [self._search(queries[i : i + _MOST_QUERIES], k, mask) for i in parts]
        return [ranked for part in found for ranked in part]

    def close(self) -> None:
        """Give the memory back."""
        with self._device.current():
            self._stream.synchronize()
            self._free()

    def _search(self, queries: NDArray[np.float32], k: int, mask: int) -> list[Ranked]:
        from lrsclip_kernels.launches import (
            topk_blocks,
            topk_capacity,
            topk_merge_shared_bytes,
            topk_shared_bytes,
        )

        capacity = topk_capacity(k)
        shared = topk_shared_bytes(capacity, "i8" if self._kind == "i8" else "f16")
        if k < 1 or shared > self._device.info.shared_bytes:
            most = self._device.info.shared_bytes
            raise InputError(
                f"k = {k} needs {shared} bytes of shared memory, {self._device.info.architecture} has "
                f"{most}; ask for at least 1 row, and for fewer"
            )
        each = self._rows_per_block()
        grid = topk_blocks(self.count, each, len(queries))
        there = self._sent(queries)
        partial = self._pool.take(grid[0] * len(queries) * k * _KEY_BYTES)
        found = self._pool.take(len(queries) * k * _RESULT_BYTES)
        answer = self._answer(len(queries) * k * _RESULT_BYTES)
        try:
            counts: list[Argument] = [ctypes.c_int(len(queries)), ctypes.c_int(k), ctypes.c_int(capacity)]
            sizes: list[Argument] = [ctypes.c_int64(self.count), ctypes.c_int(self.dim)]
            scales = () if self._scales is None else (self._scales.address,)
            stored = (self._rows.address, *scales, mask)
            self._module.launch(
                f"topk_{self._kind}",
                grid=grid,
                block=self._threads,
                arguments=[
                    *(ctypes.c_uint64(address) for address in stored),
                    *sizes,
                    *(ctypes.c_uint64(address) for address in there),
                    *counts,
                    ctypes.c_int64(each),
                    ctypes.c_uint64(partial.address),
                ],
                stream=self._stream,
                shared_bytes=shared,
            )
            scores = found.address + len(queries) * k * 8
            self._module.launch(
                "topk_merge",
                grid=(len(queries), 1, 1),
                block=self._threads,
                arguments=[
                    ctypes.c_uint64(partial.address),
                    ctypes.c_int(grid[0]),
                    *counts,
                    ctypes.c_int64(0),
                    ctypes.c_uint64(found.address),
                    ctypes.c_uint64(scores),
                ],
                stream=self._stream,
                shared_bytes=topk_merge_shared_bytes(capacity),
            )
            self._stream.download(found, answer, len(queries) * k * _RESULT_BYTES)
            self._stream.synchronize()
            return _rankings(answer, len(queries), k)
        finally:
            # The next search goes into the same stream, behind whatever of this one still runs.
            self._pool.give(partial)
            self._pool.give(found)

    def _sent(self, queries: NDArray[np.float32]) -> list[int]:
        """Addresses of the queries, and for int8 rows of their scales."""
        arrays: list[NDArray[Any]] = [np.ascontiguousarray(queries, np.float32)]
        if self._kind == "i8":
            arrays = list(int8_from_rows(queries.astype(np.float16)))
        base = self._staging.begin(sum(staged_bytes(array.nbytes) for array in arrays), self._stream)
        addresses = [base + self._staging.put(array) for array in arrays]
        self._staging.upload(self._stream)
        self._staging.release(self._stream)
        return addresses

    def _answer(self, size_bytes: int) -> PinnedBuffer:
        """Where results come down; grown where they need more."""
        if self._pinned is None or self._pinned.size_bytes < size_bytes:
            if self._pinned is not None:
                self._pinned.free()
                self._pinned = None
            self._pinned = PinnedBuffer(self._device.driver, size_bytes)
        return self._pinned

    def _rows_per_block(self) -> int:
        """Enough blocks for every multiprocessor, and enough rows that their lists are rarely sorted."""
        blocks = max(1, self._device.info.multiprocessors) * _BLOCKS_PER_MULTIPROCESSOR
        return max(_LEAST_ROWS_PER_BLOCK, -(-self.count // blocks))

    def _mask(self, passing: NDArray[np.bool_] | None) -> int:
        """The address of one byte a row, or 0 for all."""
        if passing is None:
            return 0
        if self._passing is None:
            self._passing = DeviceBuffer(self._device.driver, self.count)
            self._held.append(self._passing)
        self._copy([passing.view(np.uint8)], self._passing)
        return self._passing.address

    def _uploaded(self, parts: Sequence[NDArray[np.generic]]) -> DeviceBuffer:
        buffer = DeviceBuffer(self._device.driver, sum(part.nbytes for part in parts))
        self._held.append(buffer)
        self._copy(parts, buffer)
        return buffer

    def _copy(self, parts: Sequence[NDArray[np.generic]], buffer: DeviceBuffer) -> None:
        """Copy parts one behind the other, through two page-locked pieces: one fills while one is copied."""
        driver = self._device.driver
        size = min(_PIECE_BYTES, buffer.size_bytes)
        pieces = [(PinnedBuffer(driver, size), Event(driver)) for _ in range(2)]
        try:
            at = 0
            for number, piece in enumerate(_pieces(parts, size)):
                pinned, copied = pieces[number % 2]
                if number >= 2:
                    copied.wait()
                pinned.view(np.uint8, piece.shape)[...] = piece
                self._stream.upload_to(pinned, buffer.address + at, piece.nbytes)
                copied.record(self._stream)
                at += piece.nbytes
            self._stream.synchronize()
        finally:
            for pinned, copied in pieces:
                pinned.free()
                copied.free()

    def _free(self) -> None:
        for buffer in self._held:
            buffer.free()
        self._held.clear()
        self._staging.free()
        self._pool.free()
        if self._pinned is not None:
            self._pinned.free()
        self._stream.free()


def _checked(
    rows: Sequence[NDArray[np.generic]], scales: Sequence[NDArray[np.float32]] | None
) -> tuple[int, int]:
    """N and D."""
    expected = np.float16 if scales is None else np.int8
    shapes = [part.shape for part in rows]
    dims = {shape[1] for shape in shapes if len(shape) == 2}
    count = sum(shape[0] for shape in shapes if shape)
    right = len(dims) == 1 and all(len(shape) == 2 for shape in shapes) and count > 0
    if not right or any(part.dtype != expected for part in rows) or next(iter(dims)) % _DIM_MULTIPLE:
        raise InputError(
            f"got rows of {', '.join(map(str, shapes)) or 'no part'}, expected (n, D) {expected.__name__}, "
            f"D a multiple of {_DIM_MULTIPLE}, and at least one row"
        )
    if scales is not None and [len(part) for part in scales] != [shape[0] for shape in shapes]:
        raise InputError(f"got scales for {[len(p) for p in scales]} rows of {shapes}, expected one for each")
    return count, next(iter(dims))


def _pieces(parts: Sequence[NDArray[np.generic]], size: int) -> Iterator[NDArray[np.uint8]]:
    for part in parts:
        # A memory-mapped segment is read piece by piece, never as a whole.
        flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), size):
            yield flat[start : start + size]


def _rankings(answer: PinnedBuffer, queries: int, k: int) -> list[Ranked]:
    raw = answer.view(np.uint8, (queries * k * _RESULT_BYTES,))
    rows = raw[: queries * k * 8].view(np.int64).reshape(queries, k)
    scores = raw[queries * k * 8 :].view(np.float32).reshape(queries, k)
    held = rows >= 0
    return [Ranked(rows[q][held[q]].copy(), scores[q][held[q]].copy()) for q in range(queries)]
