"""Whether a scene shows a text at all.

Where the bundle has a calibrated threshold, that decides as it does in an archive, on the mean cosine of as
many of the best windows (``archive.presence``). Else the mean of a text's five best windows is held against
that of plain descriptions of the ground: what fits no better than they do on average is not there. That is a
low bar, which hardly loses what is there and lets much through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.presence import presence_hits

__all__ = ["BEST_WINDOWS", "Presence", "presence_of"]

BEST_WINDOWS = 5
"""Windows whose mean cosine is held against the background's."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a scene shows a text.

    Attributes:
        score: Mean cosine of the best windows.
        bar: What it is held against.
        calibrated: Whether ``bar`` is the bundle's threshold rather than the background's mean.
    """

    score: float
    bar: float
    calibrated: bool

    @property
    def present(self) -> bool:
        """Whether the score reaches the threshold, or lies above the background."""
        return self.score >= self.bar if self.calibrated else self.score > self.bar


def presence_of(
    scores: NDArray[np.float32], background: NDArray[np.float32], threshold: float | None
) -> Presence:
    """Judge one text.

    Args:
        scores: (N,) cosines of the windows with the text.
        background: (N, B) cosines of the windows with the background.
        threshold: The calibrated one, or None.

    Example:
        >>> scores = np.array([0.1, 0.5], dtype=np.float32)
        >>> presence_of(scores, np.array([[0.2], [0.2]], dtype=np.float32), None).present
        True
    """
    if threshold is not None:
        score = _best_mean(scores[:, None], presence_hits(len(scores)))
        return Presence(float(score[0]), threshold, calibrated=True)
    score, bar = (_best_mean(part, BEST_WINDOWS) for part in (scores[:, None], background))
    return Presence(float(score[0]), float(bar.mean()), calibrated=False)


def _best_mean(scores: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Mean of the best of each column; -1, the lowest cosine, without windows."""
    if not len(scores):
        return np.full(scores.shape[1], -1.0, np.float32)
    best = min(count, len(scores))
    return np.asarray(np.partition(scores, len(scores) - best, axis=0)[-best:].mean(axis=0))
