"""Read many overlapping windows of a large scene, decoding each source row once.

Windows are visited from top to bottom. Strips of 256 full-width rows are kept from the top of the
current window to the bottom of the lowest one read so far, so they never exceed the tallest window
plus two steps of reading: (tallest + 512) x width x 3 bytes, about 140 MB for a scene 36000 px wide and
windows of 768 px, whatever its height.
"""

from __future__ import annotations

from collections import deque
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
    strips: deque[tuple[int, NDArray[np.uint8]]] = deque()  # each with the scene row of its first one
    end = 0
    for index in order:
        window = windows[index]
        bottom = window.row_off + window.height
        while strips and strips[0][0] + len(strips[0][1]) <= window.row_off:
            strips.popleft()
        end = end if strips else max(end, window.row_off)
        while end < bottom:
            rows = min(READ_ROWS, scene.height - end)
            strips.append((end, scene.read(Window(0, end, scene.width, rows), fill=fill)))
            end += rows
        cols = slice(window.col_off, window.col_off + window.width)
        parts = [
            strip[max(0, window.row_off - top) : bottom - top, cols] for top, strip in strips if top < bottom
        ]
        yield index, parts[0] if len(parts) == 1 else np.concatenate(parts)
