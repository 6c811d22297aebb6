"""What 8-bit numbers do to one product, computed on sampled rows in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.number_formats import NumberFormat, half_scale

__all__ = ["output_error", "rounded_rows", "rounded_weight"]


def rounded_rows(rows: NDArray[np.float32], number_format: NumberFormat, reach: float) -> NDArray[np.float32]:
    """(R, C) as the format keeps it where its range is ``[-reach, reach]``."""
    return number_format.rounded(rows, half_scale(reach / number_format.largest))


def rounded_weight(weight: NDArray[np.float32], number_format: NumberFormat) -> NDArray[np.float32]:
    """(C, C') as the format keeps it."""
    return number_format.rounded(weight, number_format.weight_scale(weight))


def output_error(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Energy of the difference of two (R, C') products over the energy of the exact one.

    Example:
        >>> output_error(np.float32([[3, 4]]), np.float32([[3, 3]]))
        0.04
    """
    energy = float(np.square(exact, dtype=np.float64).sum())
    lost = float(np.square(found - exact, dtype=np.float64).sum())
    return lost / max(energy, float(np.finfo(np.float32).tiny))
