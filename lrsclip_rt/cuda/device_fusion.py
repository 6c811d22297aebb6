"""Scores of windows to heat maps on the device; the twin on the CPU is ``localization.hann.hann_means``."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.kernels import KernelModule, cubin_for
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.staging import Staging, staged_bytes
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.hann import TILE_CELLS, GridSpans, spans_by_tile

__all__ = ["DeviceFusion"]

_TEXTS_OF_A_BLOCK = 8


class DeviceFusion:
    """Windows on one grid; any number of texts is fused with one launch. Not to be shared between threads.

    Args:
        device: The GPU.
        grid: N windows on a grid.
        module: The kernels; default compiled for the device, or taken from the cache.

    Raises:
        BackendError: If the kernels cannot be compiled or loaded.
        DeviceMemoryError: If the tables do not fit.
    """

    def __init__(self, device: Device, grid: GridSpans, *, module: KernelModule | None = None) -> None:
        from lrsclip_kernels import FUSE

        self._device = device
        self._grid = grid
        self._side = TILE_CELLS
        assert FUSE.threads == TILE_CELLS * TILE_CELLS
        tables: list[NDArray[Any]] = [grid.spans.view(np.uint8), grid.factors, *spans_by_tile(grid)]
        with device.current():
            driver = device.driver
            self._module = module or KernelModule(driver, cubin_for(FUSE, device.info.architecture))
            self._stream = Stream(driver)
            self._tables = Staging(device)
            self._scores = Staging(device)
            base = self._tables.begin(sum(staged_bytes(table.nbytes) for table in tables), self._stream)
            self._addresses = [base + self._tables.put(table) for table in tables]
            self._tables.upload(self._stream)
            self._stream.synchronize()

    def means(self, scores: NDArray[np.float32], *, missing: float = float("nan")) -> NDArray[np.float32]:
        """Fuse.

        Args:
            scores: ``(N, T)``, of each window for each text.
            missing: What cells under no window become.

        Returns:
            ``(T, rows, cols) float32``, within 1e-6 of the twin.

        Raises:
            InputError: If the lengths disagree.
            DeviceMemoryError: If the maps do not fit.
        """
        if scores.ndim != 2 or len(scores) != len(self._grid.spans) or not scores.shape[1]:
            count = len(self._grid.spans)
            raise InputError(f"got {count} windows and scores {scores.shape}; expected (N, T)")
        texts, rows, cols = scores.shape[1], self._grid.rows, self._grid.cols
        size = 4 * texts * rows * cols
        with self._device.current():
            held: list[DeviceBuffer | PinnedBuffer] = []
            try:
                maps = DeviceBuffer(self._device.driver, size)
                held.append(maps)
                answer = PinnedBuffer(self._device.driver, size)
                held.append(answer)
                values = np.ascontiguousarray(scores, np.float32)
                there = self._scores.begin(staged_bytes(values.nbytes), self._stream)
                self._scores.put(values)
                self._scores.upload(self._stream)
                self._module.launch(
                    "fuse_windows",
                    grid=(-(-cols // self._side), -(-rows // self._side), -(-texts // _TEXTS_OF_A_BLOCK)),
                    block=(self._side, self._side, 1),
                    arguments=[
                        *(ctypes.c_uint64(address) for address in (*self._addresses, there)),
                        *(ctypes.c_int(number) for number in (texts, rows, cols)),
                        ctypes.c_float(missing),
                        ctypes.c_uint64(maps.address),
                    ],
                    stream=self._stream,
                )
                self._scores.release(self._stream)
                self._stream.download(maps, answer, size)
                self._stream.synchronize()
                fused: NDArray[np.float32] = answer.view(np.float32, (texts, rows, cols)).copy()
                return fused
            finally:
                for one in held:
                    one.free()

    def close(self) -> None:
        """Give the memory back."""
        with self._device.current():
            self._stream.synchronize()
            self._tables.free()
            self._scores.free()
            self._stream.free()
