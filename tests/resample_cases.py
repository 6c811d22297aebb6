"""Random batches for the resample kernels, and what Pillow makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_host import HostKernels
from kernel_launches import resampled
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.raster_stretch import Stretch
from lrsclip_rt.resample_plan import (
    BufferWindow,
    PixelBuffer,
    Resize,
    plan_windows,
    square_resize,
)
from lrsclip_rt.resampling import Interpolation
from lrsclip_rt.tiles import Window


@dataclass(frozen=True)
class Case:
    """A window, the arrays that must outlive its launch, and its rectangle as 8-bit RGB."""

    item: BufferWindow
    held: tuple[NDArray[Any], ...]
    rectangle: NDArray[np.uint8]

    def by_pillow(self) -> NDArray[np.uint8]:
        """(rows, cols, 3) uint8: the whole rectangle resized, then cut."""
        resize = self.item.resize
        method = getattr(Image.Resampling, resize.interpolation.upper())
        whole = Image.fromarray(self.rectangle).resize((resize.width, resize.height), method)
        box = (resize.col_off, resize.row_off, resize.col_off + resize.cols, resize.row_off + resize.rows)
        return np.asarray(whole.crop(box))


def random_case(
    rng: np.random.Generator, rows: int, cols: int, *, sample_bytes: int = 1, largest: int = 220
) -> Case:
    """A random rectangle of a random buffer (1 to 5 bands, planes, mask, pitch) and a random resize."""
    kind = rng.integers(4)
    top = {0: 12, 1: largest, 2: largest, 3: 9}[int(kind)]
    height, width = int(rng.integers(1, top + 1)), int(rng.integers(1, largest + 1))
    if rng.integers(2):
        height, width = width, height
    if kind == 2:
        height, width = rows, cols + int(rng.integers(0, 3))  # an axis or both keep their length
    window = Window(int(rng.integers(0, 9)), int(rng.integers(0, 9)), width, height)
    rows_in_buffer = window.row_off + height + int(rng.integers(0, 5))
    cols_in_buffer = window.col_off + width + int(rng.integers(0, 5))
    resize = random_resize(rng, height, width, rows, cols)
    return case_from_pixels(rng, (rows_in_buffer, cols_in_buffer), window, resize, sample_bytes=sample_bytes)


def random_resize(rng: np.random.Generator, height: int, width: int, rows: int, cols: int) -> Resize:
    interpolation: Interpolation = "bicubic" if rng.integers(3) else "bilinear"
    if rows == cols and rng.integers(3):
        resize = square_resize(height, width, rows, interpolation)
        if resize.height * resize.width < 400_000:  # Pillow resizes the whole of a long image
            return resize
    new_height = height if height >= rows and rng.integers(3) == 0 else rows + int(rng.integers(0, 40))
    new_width = width if width >= cols and rng.integers(3) == 0 else cols + int(rng.integers(0, 40))
    row_off, col_off = int(rng.integers(new_height - rows + 1)), int(rng.integers(new_width - cols + 1))
    return Resize(new_height, new_width, row_off, col_off, rows, cols, interpolation)


def case_from_pixels(
    rng: np.random.Generator,
    shape: tuple[int, int],
    window: Window,
    resize: Resize,
    *,
    sample_bytes: int = 1,
    masked: bool | None = None,
) -> Case:
    height, width = shape
    dtype = np.uint8 if sample_bytes == 1 else np.uint16
    planes = bool(rng.integers(2))
    bands = int(rng.choice([1, 3, 4, 5]))
    chosen = rng.integers(0, bands, 3)
    padding = int(rng.integers(0, 7))  # of a row, in samples
    samples = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, bands), dtype=dtype)
    if rng.integers(2):  # saturated edges make the bicubic overshoot, which has to be clipped alike
        samples = np.where(samples > np.iinfo(dtype).max // 2, np.iinfo(dtype).max, 0).astype(dtype)
    if planes:
        memory = np.zeros((bands, height, width + padding), dtype)
        memory[:, :, :width] = samples.transpose(2, 0, 1)
        pixel_samples, channel_samples = 1, height * (width + padding)
        row_samples = width + padding
    else:
        memory = np.zeros((height, width * bands + padding), dtype)
        memory[:, : width * bands] = samples.reshape(height, -1)
        pixel_samples, channel_samples, row_samples = bands, 1, width * bands + padding
    colours = samples[:, :, chosen]
    held: list[NDArray[Any]] = [memory]
    stretch_address = 0
    if sample_bytes == 2 or rng.integers(3) == 0:
        low = rng.uniform(0, np.iinfo(dtype).max / 3, 3)
        stretch = Stretch(tuple(low), tuple(low + rng.uniform(1, np.iinfo(dtype).max / 2, 3)))
        every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
        held.append(np.ascontiguousarray(stretch.apply(np.tile(every, (3, 1, 1)))[:, 0]))
        stretch_address = held[-1].ctypes.data
        colours = stretch.apply(colours.transpose(2, 0, 1)).transpose(1, 2, 0)
    valid_address, fill = 0, np.zeros(3, np.uint8)
    if masked if masked is not None else rng.integers(3) == 0:
        valid = rng.integers(0, 2, (height, width + 3), dtype=np.uint8)
        held.append(valid)
        valid_address, fill = valid.ctypes.data, rng.integers(0, 256, 3, dtype=np.uint8)
        colours = np.where(valid[:, :width, None] != 0, colours, fill)
    buffer = PixelBuffer(
        memory.ctypes.data,
        height,
        width,
        row_samples * sample_bytes,
        pixel_samples * sample_bytes,
        _three(chosen * channel_samples * sample_bytes),
        sample_bytes,
        stretch_address,
        valid_address,
        width + 3 if valid_address else 0,
        _three(fill),
    )
    below, right = window.row_off + window.height, window.col_off + window.width
    rectangle = np.ascontiguousarray(colours[window.row_off : below, window.col_off : right])
    return Case(BufferWindow(buffer, window, resize), tuple(held), rectangle.astype(np.uint8))


def _three(values: NDArray[Any]) -> tuple[int, int, int]:
    first, second, third = values.tolist()
    return first, second, third


def random_batch(rng: np.random.Generator, count: int) -> list[Case]:
    """Windows of differing buffers, sizes and filters whose results have one size."""
    rows, cols = (int(side) for side in rng.choice([1, 7, 16, 32, 33, 45], 2))
    if rng.integers(3):
        cols = rows
    sample_bytes = int(rng.choice([1, 1, 2]))
    return [random_case(rng, rows, cols, sample_bytes=sample_bytes) for _ in range(count)]


def differing_bytes(kernels: HostKernels, cases: Sequence[Case], *, seed: int = 0) -> int:
    """Bytes in which the kernels' results differ from Pillow's, before normalisation."""
    found = resampled(kernels, plan_windows([case.item for case in cases]), seed=seed)
    expected = np.stack([case.by_pillow().transpose(2, 0, 1) for case in cases])
    return int((found != expected).sum())


def count_differing(kernels: HostKernels, count: int, seed: int, *, batch: int = 5) -> int:
    """Differing bytes over ``count`` random windows."""
    rng = np.random.default_rng(seed)
    starts = range(0, count, batch)
    return sum(differing_bytes(kernels, random_batch(rng, batch), seed=start) for start in starts)
