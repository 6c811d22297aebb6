"""Images and windows of scenes to the model's input on the device, equal to Pillow's to the byte.

Pixels go up as they were decoded, one copy for a batch, and two launches make the model's input of them where
the model reads it. The twin on the CPU is ``resampling.resized_window``, then the look-up of each value.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.kernels import KernelModule, cubin_for
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.staging import Staging, staged_bytes
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import InputError
from lrsclip_rt.pixels import PixelSpec
from lrsclip_rt.resample_plan import (
    SHARED_BYTES,
    BufferWindow,
    PixelBuffer,
    ResamplePlan,
    plan_windows,
    square_resize,
    values_from_spec,
)
from lrsclip_rt.tiles import Window

__all__ = ["DeviceResampler"]

_SUFFIXES = {"float32": "f32", "float16": "f16", "uint8": "u8"}


class DeviceResampler:
    """Makes the model's input on the device; not to be shared between threads.

    Args:
        device: The GPU; its context must be current in all calls.
        spec: The preprocessing.
        dtype: Of the model's input: float32 or float16.
        module: The kernels; default compiled for the device, or taken from the cache.
        near: A folder where they may lie compiled, such as that of the engines.

    Raises:
        BackendError: If the kernels cannot be compiled or loaded.
        DeviceMemoryError: If there is no memory for its tables.
    """

    def __init__(
        self,
        device: Device,
        spec: PixelSpec,
        dtype: DTypeLike,
        *,
        module: KernelModule | None = None,
        near: Path | None = None,
    ) -> None:
        from lrsclip_kernels import RESAMPLE

        self._device = device
        self._spec = spec
        self._threads = (RESAMPLE.threads, 1, 1)
        kind = np.dtype(dtype)
        if kind.name not in ("float32", "float16"):
            raise InputError(f"the model's input is {kind.name}, expected float32 or float16")
        self._suffix, self.value_bytes = _SUFFIXES[kind.name], kind.itemsize
        driver = device.driver
        architecture = device.info.architecture
        self._module = module or KernelModule(driver, cubin_for(RESAMPLE, architecture, near=near))
        self._staging = Staging(device)
        self._scratch: DeviceBuffer | None = None
        self._last: tuple[ResamplePlan, int, int, int] | None = None
        values = values_from_spec(spec).astype(kind)
        self._values = DeviceBuffer(driver, values.nbytes)
        self._values_pinned = PinnedBuffer(driver, values.nbytes)
        self._values_pinned.view(kind, values.shape)[...] = values
        self._values_there = False

    def enqueue_images(self, images: Sequence[NDArray[np.uint8]], output: int, stream: Stream) -> None:
        """Upload images and make the model's input of them.

        Args:
            images: ``(H, W, 3) uint8`` each, of any sizes.
            output: Address of ``(N, 3, S, S)`` values on the device.
            stream: Where everything is enqueued; the images may change once this returns.

        Raises:
            InputError: If there is no image.
            DeviceMemoryError: If they do not fit.
        """
        offsets = _offsets([image.nbytes for image in images])
        items = []
        for image, offset in zip(images, offsets, strict=True):
            height, width = image.shape[:2]
            # Addresses are counted from the beginning of the copy until that is known.
            buffer = PixelBuffer(offset, height, width, 3 * width, 3, (0, 1, 2))
            resize = square_resize(height, width, self._spec.size)
            items.append(BufferWindow(buffer, Window(0, 0, width, height), resize))
        self._enqueue(items, images, output, stream)

    def enqueue_windows(self, items: Sequence[BufferWindow], output: int, stream: Stream) -> None:
        """Make the model's input of windows whose pixels are on the device already.

        Args:
            items: Their buffers have addresses of the device.
            output: Address of ``(N, 3, S, S)`` values on the device.
            stream: Where everything is enqueued.

        Raises:
            InputError: If the results have another size than the model's input, or there are none.
            DeviceMemoryError: If the tables do not fit.
        """
        self._enqueue(items, (), output, stream)

    def launch_again(self, stream: Stream) -> None:
        """Enqueue the kernels of the last batch once more, without planning or copying: for benchmarks."""
        assert self._last is not None
        self._launch(*self._last, stream)

    def free(self) -> None:
        """Give everything back but the kernels' code; nothing may be running."""
        self._staging.free()
        self._values.free()
        self._values_pinned.free()
        if self._scratch is not None:
            self._scratch.free()
            self._scratch = None

    def _enqueue(
        self,
        items: Sequence[BufferWindow],
        pixels: Sequence[NDArray[np.uint8]],
        output: int,
        stream: Stream,
    ) -> None:
        plan = plan_windows(items)
        size = self._spec.size
        if (plan.rows, plan.cols) != (size, size):
            raise InputError(f"windows become {plan.rows} x {plan.cols} px, the model takes {size} x {size}")
        arrays: list[NDArray[Any]] = [*pixels, plan.windows.view(np.uint8), plan.tables]
        base = self._staging.begin(sum(staged_bytes(array.nbytes) for array in arrays), stream)
        if pixels:
            plan.windows["pixels"] += np.uint64(base)
        *_, windows, tables = [self._staging.put(array) for array in arrays]
        self._staging.upload(stream)
        if not self._values_there:
            stream.upload(self._values_pinned, self._values, self._values.size_bytes)
            self._values_there = True
        self._last = (plan, base + windows, base + tables, output)
        self._launch(*self._last, stream)
        self._staging.release(stream)

    def _launch(self, plan: ResamplePlan, windows: int, tables: int, output: int, stream: Stream) -> None:
        scratch = self._scratch_of(4 * plan.scratch_pixels, stream)
        pointers = [ctypes.c_uint64(address) for address in (windows, tables, scratch)]
        results = [ctypes.c_uint64(address) for address in (self._values.address, output)]
        first = f"resample_first_u{8 * plan.sample_bytes}"
        for kernel, grid, arguments in (
            (first, plan.first_grid, pointers),
            (f"resample_second_{self._suffix}", plan.second_grid, [*pointers, *results]),
        ):
            self._module.launch(
                kernel,
                grid=grid,
                block=self._threads,
                arguments=arguments,
                stream=stream,
                shared_bytes=SHARED_BYTES,
            )

    def _scratch_of(self, size_bytes: int, stream: Stream) -> int:
        """Memory between the passes; batches of one stream share it."""
        if self._scratch is None or self._scratch.size_bytes < size_bytes:
            if self._scratch is not None:
                stream.synchronize()
                self._scratch.free()
                self._scratch = None
            self._scratch = DeviceBuffer(self._device.driver, size_bytes)
        return self._scratch.address


def _offsets(sizes: Sequence[int]) -> list[int]:
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += staged_bytes(size)
    return offsets
