"""Windows over a raster: plain integer rectangles and the grids made of them."""

from __future__ import annotations

from dataclasses import dataclass

from lrsclip_rt.errors import InputError

__all__ = ["Window", "tile_grid"]


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of full-resolution source pixels.

    Attributes:
        col_off: First column [px].
        row_off: First row [px].
        width: Columns [px], at least 1.
        height: Rows [px], at least 1.
    """

    col_off: int
    row_off: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"a window needs at least one pixel, got {self.width} x {self.height}")

    def as_list(self) -> list[int]:
        """``[col_off, row_off, width, height]``, the order of every output of the project."""
        return [self.col_off, self.row_off, self.width, self.height]


def tile_grid(height: int, width: int, *, size: int, overlap: float = 0.0) -> list[Window]:
    """Cover a ``height x width`` scene with square tiles.

    The last tile of a row or column is moved back to end at the scene's edge, so no tile reaches
    outside and no pixel is missed. A scene smaller than a tile along an axis is covered by one tile
    of the scene's own length there.

    Args:
        height: Scene height [px].
        width: Scene width [px].
        size: Tile edge [px].
        overlap: Shared fraction of neighbouring tiles, in ``[0, 1)``.

    Returns:
        Windows in row-major order.

    Raises:
        InputError: If a length is not positive or ``overlap`` is outside ``[0, 1)``.

    Example:
        >>> [t.col_off for t in tile_grid(224, 500, size=224, overlap=0.25)]
        [0, 168, 276]
    """
    if height < 1 or width < 1 or size < 1:
        raise InputError(f"lengths must be positive: scene {height} x {width} px, tile {size} px")
    if not 0.0 <= overlap < 1.0:
        raise InputError(f"overlap must be in [0, 1), got {overlap}")
    stride = max(1, round(size * (1.0 - overlap)))
    return [
        Window(col_off, row_off, min(size, width), min(size, height))
        for row_off in _offsets(height, size, stride)
        for col_off in _offsets(width, size, stride)
    ]


def _offsets(length: int, size: int, stride: int) -> list[int]:
    if length <= size:
        return [0]
    last = length - size
    offsets = list(range(0, last, stride))
    return [*offsets, last]
