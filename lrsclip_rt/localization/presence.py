"""Whether a scene shows a text at all.

The mean cosine of a text's best windows is held against that of descriptions which fit every scene and say
nothing of what is in it. A model of this kind is trained so that its logit scale times a difference of
cosines is the logarithm of odds. So the bar needs no calibration: a text is there if its best windows hold it
for ``ODDS`` times as likely as the background.

The threshold of a bundle is not asked. It belongs to archives of whole images; windows that cut things apart
or show them beside others reach lower cosines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BEST_WINDOWS", "ODDS", "Presence", "presence_of"]

BEST_WINDOWS = 2
"""Windows whose mean cosine is held against the background's."""

ODDS = 4.0
"""How much likelier than the background a text must be in its best windows. Chosen with the built-in model on
what benchmarks/localization_quality.py asks, every text alone: nine in ten of what is there pass, as the mean
of its three kinds of scenes."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a scene shows a text.

    Attributes:
        score: Mean cosine of the best windows.
        bar: What it must reach.
    """

    score: float
    bar: float

    @property
    def present(self) -> bool:
        """Whether the score reaches the bar."""
        return self.score >= self.bar


def presence_of(
    scores: NDArray[np.float32], background: NDArray[np.float32], *, logit_scale: float
) -> Presence:
    """Judge one text.

    Args:
        scores: (N,) cosines of the windows with the text.
        background: (N, B) cosines of the windows with the background; each column has its own best windows.
        logit_scale: Of the model; ``ODDS`` are its logarithm over this in cosines.

    Example:
        >>> scores, background = np.array([0.1, 0.5, 0.5]), np.full((3, 2), 0.2)
        >>> judged = presence_of(scores.astype(np.float32), background.astype(np.float32), logit_scale=10.0)
        >>> judged.score, round(judged.bar, 3)
        (0.5, 0.339)
    """
    bar = float(_best_mean(background).mean()) + math.log(ODDS) / logit_scale
    return Presence(float(_best_mean(scores[:, None])[0]), bar)


def _best_mean(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the best of each column; -1, the lowest cosine, without windows."""
    if not len(scores):
        return np.full(scores.shape[1], -1.0, np.float32)
    best = min(BEST_WINDOWS, len(scores))
    return np.asarray(np.partition(scores, len(scores) - best, axis=0)[-best:].mean(axis=0))
