"""Read many overlapping windows of a large scene, decoding each source row once.

Windows are visited from top to bottom. A buffer holds the full-width rows between the top of the
current window and the bottom of the lowest one read so far, so it never exceeds the tallest window
plus one step of reading: (tallest + 256) x width x 3 bytes, about 110 MB for a scene 36000 px wide,
whatever its height.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window

__all__ = ["windows_from_strips"]

READ_ROWS = 256
"""Rows that are read at once [px]."""


def windows_from_strips(
    scene: Scene, windows: Sequence[Window], *, fill: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index into ``windows``, pixels) from top to bottom.

    Args:
        scene: The scene.
        windows: Windows inside it, in any order.
        fill: Whether missing pixels show the scene's mean colour rather than what is stored.

    Yields:
        The window's number and its (h, w, 3) uint8 pixels, which later reads do not change.

    Raises:
        RasterError: If the scene is damaged.
    """
    order = sorted(range(len(windows)), key=lambda index: (windows[index].row_off, windows[index].col_off))
    buffer = np.empty((0, scene.width, 3), dtype=np.uint8)
    top = 0  # scene row of the buffer's first row
    for index in order:
        window = windows[index]
        if window.row_off + window.height > top + len(buffer):
            buffer, top = _advanced(scene, buffer, top, window, fill=fill)
        start = window.row_off - top
        cols = slice(window.col_off, window.col_off + window.width)
        yield index, buffer[start : start + window.height, cols]


def _advanced(
    scene: Scene, buffer: NDArray[np.uint8], top: int, window: Window, *, fill: bool
) -> tuple[NDArray[np.uint8], int]:
    """Drop the rows above ``window`` and read on until it is covered. The old buffer is left as it is."""
    end = top + len(buffer)
    kept = buffer[max(0, window.row_off - top) :]
    new_top = max(window.row_off, top) if len(kept) else window.row_off
    parts = [kept]
    row = max(end, window.row_off)
    while row < window.row_off + window.height:
        rows = min(READ_ROWS, scene.height - row)
        parts.append(scene.read(Window(0, row, scene.width, rows), fill=fill))
        row += rows
    return np.concatenate(parts), new_top
