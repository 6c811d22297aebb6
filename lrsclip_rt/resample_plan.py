"""What the resample kernels need to know of a batch of windows: records, weight tables, grids.

A plan is host arithmetic alone. It reads no pixel and knows nothing of devices: addresses are numbers that
mean something where the kernels run. The result of every window is ``resized_window`` of its
rectangle, then the look-up of each value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.pixels import PixelSpec, pixels_from_array, resized_size
from lrsclip_rt.resampling import (
    PRECISION_BITS,
    Interpolation,
    ResampleTable,
    resample_table,
    vertical_first,
)
from lrsclip_rt.tiles import Window

__all__ = [
    "MAX_WINDOWS",
    "SHARED_BYTES",
    "WINDOW_DTYPE",
    "BufferWindow",
    "PixelBuffer",
    "ResamplePlan",
    "Resize",
    "plan_windows",
    "square_resize",
    "values_from_spec",
]

MAX_WINDOWS = 65_535
"""Windows of one launch: CUDA's limit of the grid's third axis."""

SHARED_BYTES = 33_024
"""Shared memory of a block of either pass."""

_BLOCK_LINES, _BLOCK_OUTPUTS = 64, 32
_LEVELS = {1: 256, 2: 65_536}
_PASS = np.dtype(
    [("lines", "<i4"), ("length", "<i4"), ("outputs", "<i4"), ("taps", "<i4"), ("table", "<i8")], align=True
)
WINDOW_DTYPE = np.dtype(
    [
        ("pixels", "<u8"),
        ("valid", "<u8"),
        ("stretch", "<u8"),
        ("line_bytes", "<i8"),
        ("position_bytes", "<i8"),
        ("valid_line_bytes", "<i8"),
        ("valid_position_bytes", "<i8"),
        ("channel_bytes", "<i8", (3,)),
        ("scratch", "<i8"),
        ("output", "<i8"),
        ("output_line", "<i8"),
        ("output_position", "<i8"),
        ("output_plane", "<i8"),
        ("first", _PASS),
        ("second", _PASS),
        ("levels", "<i4"),
        ("fill", "<u4"),
    ],
    align=True,
)
"""``struct Window`` of resample.cu."""


@dataclass(frozen=True, slots=True)
class PixelBuffer:
    """Pixels in memory, interleaved or in planes.

    Attributes:
        address: Of the first sample of the first pixel.
        height: Rows [px].
        width: Columns [px].
        row_bytes: From row to row.
        pixel_bytes: From pixel to pixel of a row.
        channel_bytes: From a pixel to its R, G and B; three times the same for grey.
        sample_bytes: 1 for uint8, 2 for uint16.
        stretch: Address of the (3, 256) or (3, 65536) uint8 table that makes samples 8 bits; 0 for none.
        valid: Address of an (H, W) map, one byte a pixel, 0 where it is missing; 0 where all are valid.
        valid_row_bytes: From row to row of that map.
        fill: R, G, B shown in place of missing pixels.

    Raises:
        InputError: If it has no pixels, or 16-bit samples and no stretch.
    """

    address: int
    height: int
    width: int
    row_bytes: int
    pixel_bytes: int
    channel_bytes: tuple[int, int, int]
    sample_bytes: int = 1
    stretch: int = 0
    valid: int = 0
    valid_row_bytes: int = 0
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"the buffer is {self.width} x {self.height} px, expected at least 1 x 1")
        if self.sample_bytes not in _LEVELS:
            raise InputError(f"samples have {self.sample_bytes} bytes, expected 1 (uint8) or 2 (uint16)")
        if self.sample_bytes == 2 and not self.stretch:
            raise InputError("16-bit samples need a stretch table of (3, 65536) bytes")


@dataclass(frozen=True, slots=True)
class Resize:
    """A resize and the part of its result that is wanted.

    Attributes:
        height: Rows [px] of the whole result.
        width: Columns [px] of the whole result.
        row_off: First row wanted.
        col_off: First column wanted.
        rows: Rows wanted.
        cols: Columns wanted.
        interpolation: Pillow's filter.

    Raises:
        InputError: If the part is empty or leaves the result.
    """

    height: int
    width: int
    row_off: int
    col_off: int
    rows: int
    cols: int
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        inside = min(self.row_off, self.col_off) >= 0 and min(self.rows, self.cols) >= 1
        if not inside or self.row_off + self.rows > self.height or self.col_off + self.cols > self.width:
            raise InputError(
                f"rows {self.row_off} + {self.rows} and columns {self.col_off} + {self.cols} leave the "
                f"resized image of {self.height} x {self.width} px; expected a part inside it"
            )


@dataclass(frozen=True, slots=True)
class BufferWindow:
    """A rectangle of a buffer and what becomes of it.

    Raises:
        InputError: If the rectangle leaves the buffer.
    """

    buffer: PixelBuffer
    window: Window
    resize: Resize

    def __post_init__(self) -> None:
        window, buffer = self.window, self.buffer
        bottom, right = window.row_off + window.height, window.col_off + window.width
        if min(window.row_off, window.col_off) < 0 or bottom > buffer.height or right > buffer.width:
            raise InputError(
                f"window {window.as_list()} leaves the buffer of {buffer.width} x {buffer.height} px; "
                "give a window [col_off, row_off, width, height] inside it"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ResamplePlan:
    """Two launches for a batch of N windows.

    Attributes:
        windows: ``(N,)`` of ``WINDOW_DTYPE``.
        tables: ``(L,) int32``, the weight tables that the records point into.
        scratch_pixels: Words of 4 bytes between the passes.
        sample_bytes: Which first pass runs: 1 for ``resample_first_u8``, 2 for ``resample_first_u16``.
        first_grid: Blocks of the first pass.
        second_grid: Blocks of the second pass.
        rows: Rows [px] of every result.
        cols: Columns [px] of every result.
    """

    windows: NDArray[np.void]
    tables: NDArray[np.int32]
    scratch_pixels: int
    sample_bytes: int
    first_grid: tuple[int, int, int]
    second_grid: tuple[int, int, int]
    rows: int
    cols: int

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """``(N, 3, rows, cols)``."""
        return len(self.windows), 3, self.rows, self.cols


def square_resize(height: int, width: int, size: int, interpolation: Interpolation = "bicubic") -> Resize:
    """The model's own rule: the shorter side becomes ``size``, then the centre is cut.

    Example:
        >>> square_resize(300, 600, 224)
        Resize(height=224, width=448, row_off=0, col_off=112, rows=224, cols=224, interpolation='bicubic')
    """
    new_height, new_width = resized_size(height, width, size)
    # Python rounds halves to even, and so does torchvision's crop.
    row_off, col_off = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return Resize(new_height, new_width, row_off, col_off, size, size, interpolation)


def values_from_spec(spec: PixelSpec) -> NDArray[np.float32]:
    """What each of the 256 sample values becomes: ``(3, 256) float32``, from the reference preprocessing.

    Example:
        >>> float(values_from_spec(PixelSpec(224, (0.5,) * 3, (0.5,) * 3))[0, 255])
        1.0
    """
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    return pixels_from_array(ramp, PixelSpec(16, spec.mean, spec.std)).reshape(3, 256)


def plan_windows(items: Sequence[BufferWindow], *, pillow_major: int | None = None) -> ResamplePlan:
    """Plan one batch.

    Args:
        items: N windows, of one buffer or of many; their results have one size.
        pillow_major: Major version of Pillow to follow; ``None`` is the installed one.

    Raises:
        InputError: If there are no windows or too many, or sizes of results or samples differ.
    """
    if not 1 <= len(items) <= MAX_WINDOWS:
        raise InputError(f"got {len(items)} windows, expected 1 to {MAX_WINDOWS}; make smaller batches")
    kinds = {(item.resize.rows, item.resize.cols, item.buffer.sample_bytes) for item in items}
    if len(kinds) > 1:
        raise InputError(
            "the batch mixes results or samples of different sizes (rows, columns, sample bytes): "
            f"{sorted(kinds)}; make one batch of each"
        )
    ((rows, cols, sample_bytes),) = kinds
    windows = np.zeros(len(items), WINDOW_DTYPE)
    tables = _Tables()
    scratch = 0
    for number, item in enumerate(items):
        record = windows[number]
        _fill_record(record, item, tables, pillow_major)
        record["scratch"] = scratch
        record["output"] = number * 3 * rows * cols
        scratch += int(record["first"]["lines"]) * int(record["first"]["outputs"])
    return ResamplePlan(
        windows,
        tables.joined(),
        scratch,
        sample_bytes,
        _grid(windows["first"]),
        _grid(windows["second"]),
        rows,
        cols,
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of one window: ``in_size`` samples, of whose ``out_size`` some are wanted."""

    in_size: int
    out_size: int
    start: int
    count: int
    interpolation: Interpolation

    def table(self) -> ResampleTable:
        if self.in_size == self.out_size:  # an axis that keeps its length is left alone: one weight of 1
            first = np.arange(self.start, self.start + self.count)
            return ResampleTable(first, np.full((self.count, 1), 1 << PRECISION_BITS, np.int32))
        stop = self.start + self.count
        return resample_table(self.in_size, self.out_size, self.start, stop, interpolation=self.interpolation)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A table among the others, and the source samples that it reads."""

    offset: int
    taps: int
    start: int
    stop: int


class _Tables:
    """Tables one behind the other; windows that resize alike share them."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.int32]] = []
        self._length = 0
        self._placed: dict[tuple[_Axis, bool], _Placed] = {}

    def place(self, axis: _Axis, *, from_zero: bool) -> _Placed:
        """The table of an axis; with ``from_zero`` its first source sample counts as 0."""
        key = (axis, from_zero)
        if key not in self._placed:
            table = axis.table()
            taps = table.weights.shape[1]
            start, stop = int(table.first.min()), min(axis.in_size, int(table.first.max()) + taps)
            first = (table.first - start if from_zero else table.first).astype(np.int32)
            self._placed[key] = _Placed(self._length, taps, start, stop)
            self._parts += [first, table.weights.ravel()]
            self._length += first.size + table.weights.size
        return self._placed[key]

    def joined(self) -> NDArray[np.int32]:
        return np.concatenate(self._parts)


def _fill_record(record: np.void, item: BufferWindow, tables: _Tables, pillow_major: int | None) -> None:
    """Everything of a record but its place in the scratch and in the result."""
    window, buffer, resize = item.window, item.buffer, item.resize
    across = _Axis(window.width, resize.width, resize.col_off, resize.cols, resize.interpolation)
    down = _Axis(window.height, resize.height, resize.row_off, resize.rows, resize.interpolation)
    columns_first = vertical_first(
        window.height, window.width, resize.height, resize.width, pillow_major=pillow_major
    )
    inner, outer = (down, across) if columns_first else (across, down)
    inner_table, outer_table = tables.place(inner, from_zero=False), tables.place(outer, from_zero=True)
    lines = outer_table.stop - outer_table.start
    record["first"] = (lines, inner.in_size, inner.count, inner_table.taps, inner_table.offset)
    record["second"] = (inner.count, lines, outer.count, outer_table.taps, outer_table.offset)

    top, left = window.row_off, window.col_off
    if columns_first:
        left += outer_table.start
    else:
        top += outer_table.start
    record["pixels"] = buffer.address + top * buffer.row_bytes + left * buffer.pixel_bytes
    steps = (buffer.row_bytes, buffer.pixel_bytes)
    record["line_bytes"], record["position_bytes"] = steps[::-1] if columns_first else steps
    if buffer.valid:
        record["valid"] = buffer.valid + top * buffer.valid_row_bytes + left
        steps = (buffer.valid_row_bytes, 1)
        record["valid_line_bytes"], record["valid_position_bytes"] = steps[::-1] if columns_first else steps
    record["channel_bytes"] = buffer.channel_bytes
    record["stretch"], record["levels"] = buffer.stretch, _LEVELS[buffer.sample_bytes]
    record["fill"] = buffer.fill[0] | buffer.fill[1] << 8 | buffer.fill[2] << 16
    # Between the passes the image lies transposed, and the second pass turns it back.
    steps = (resize.cols, 1)
    record["output_line"], record["output_position"] = steps if columns_first else steps[::-1]
    record["output_plane"] = resize.rows * resize.cols


def _grid(passes: NDArray[np.void]) -> tuple[int, int, int]:
    lines, outputs = int(passes["lines"].max()), int(passes["outputs"].max())
    return -(-lines // _BLOCK_LINES), -(-outputs // _BLOCK_OUTPUTS), len(passes)
