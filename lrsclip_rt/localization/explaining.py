"""A long description taken apart: a map for each sentence, and one for what fits them all.

Sentences reach different cosines, so each map is first brought to spreads above its own middle. The combined
map is the least of them at each place: only a place that fits every sentence is high, and one wrong sentence
pulls it down where the others agree. That sentence is the one whose value at the best place is low.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.heatmap import Heatmap
from lrsclip_rt.localization.pipeline import Localization, described_map
from lrsclip_rt.localization.statistics import score_statistics
from lrsclip_rt.raster import Scene

__all__ = ["Explanation", "explain", "sentences_of"]

MEASURE = "least z of the sentences"


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A description and its sentences in one scene.

    Attributes:
        found: The maps of the sentences in their order, then that of the whole description.
        z_at_best: Of each sentence, how far its map lies above its middle at the best place of the combined
            map, in robust standard deviations; empty where the scene shows nothing.
    """

    found: Localization
    z_at_best: tuple[float, ...]


def sentences_of(text: str) -> list[str]:
    """The sentences of a description.

    Raises:
        InputError: If there are fewer than two.
    """
    from lrsclip_rt.archive.sentences import split_sentences

    sentences = split_sentences(text)
    if len(sentences) < 2:
        raise InputError(
            f"the description has {len(sentences)} sentence; expected two or more to explain, "
            "each ended by a full stop"
        )
    return sentences


def explain(found: Localization, scene: Scene, description: str) -> Explanation:
    """Combine the maps of the sentences of a description.

    Args:
        found: One map a sentence, of the fast mode or from an archive.
        scene: The same scene.
        description: All of it.

    Raises:
        InputError: If the maps are those of the selo mode, or there are none.
    """
    if found.cells is not None or not len(found):
        raise InputError("sentences are combined on maps of the fast mode; got none or those of selo mode")
    lifted = np.stack([_spreads_above(heatmap.scores) for heatmap in found.heatmaps])
    least = lifted.min(axis=0)
    weakest = min(
        (heatmap.presence for heatmap in found.heatmaps if heatmap.presence is not None),
        key=lambda presence: presence.score - presence.bar,
        default=None,
    )
    combined = described_map(description, least, None, found.embedding, scene, weakest, found[0].model_id)
    combined = replace(combined, measure=MEASURE)
    return Explanation(
        Localization(found.embedding, None, (*found.heatmaps, combined)), _at_peak(lifted, combined)
    )


def _spreads_above(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    statistics = score_statistics(scores)
    spread = statistics.spread if statistics.spread > 0 else 1.0
    return np.asarray((scores - statistics.middle) / spread, np.float32)


def _at_peak(lifted: NDArray[np.float32], combined: Heatmap) -> tuple[float, ...]:
    if combined.peak is None:
        return ()
    rows, cols = combined.scores.shape
    col = min(cols - 1, int(combined.peak[0] * cols / combined.width))
    row = min(rows - 1, int(combined.peak[1] * rows / combined.height))
    return tuple(round(float(one[row, col]), 3) for one in lifted)
