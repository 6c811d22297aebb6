"""How many candidates a recall takes: measured on the archive's own vectors, with texts and with images.

Queries that are perturbed rows make any code look perfect; texts lie elsewhere in the space than
images do. So the candidates are counted for texts and for rows of the archive apart, each of these left out
of its own answer, and the worse of both decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.codes.scanning import Rough
from lrsclip_rt.archive.scanning import Ranked

__all__ = ["CALIBRATED_K", "MOST_CANDIDATES", "WANTED_RECALL", "Calibration", "Trial", "calibrated"]

CALIBRATED_K = (10, 100)
"""Lengths of rankings whose recall is measured."""
WANTED_RECALL = 0.995
"""Candidates are chosen to reach it on the calibration's queries."""
MOST_CANDIDATES = 8_192
"""Where these do not reach it, codes are of no use and the archive is searched exactly."""
_LEAST_CANDIDATES = 32
_STEP = 2**0.25


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured when the codes were built.

    Attributes:
        rows: Rows of the archive then.
        texts: Queries by text.
        images: Queries by image.
        candidates: By k, rows that are scored exactly.
        text_recall: By k, mean share of the exact best k that these hold; empty without texts.
        image_recall: The same for images.
    """

    rows: int
    texts: int
    images: int
    candidates: Mapping[int, int]
    text_recall: Mapping[int, float] = field(default_factory=dict)
    image_recall: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """The calibration of a JSON record.

        Raises:
            KeyError: If a field is missing.
            ValueError: If a value is none, or a length of ``CALIBRATED_K`` has no candidates or no recall.
            TypeError: If a field is no number.
            AttributeError: If a field is no mapping.
            OverflowError: If a number is infinite.
        """
        found = cls(
            int(record["rows"]),
            int(record["texts"]),
            int(record["images"]),
            {int(k): int(n) for k, n in record["candidates"].items()},
            {int(k): float(r) for k, r in record["text_recall"].items()},
            {int(k): float(r) for k, r in record["image_recall"].items()},
        )
        recalls = [recall for recall in (found.text_recall, found.image_recall) if recall]
        for by_k in (found.candidates, *recalls):
            if not set(CALIBRATED_K) <= by_k.keys() or not recalls:
                raise ValueError(
                    f"the calibration has values for k of {sorted(by_k)}, expected {CALIBRATED_K}"
                )
        if not all(0 < count < 1 << 40 for count in found.candidates.values()):
            raise ValueError("the calibration takes a number of candidates that cannot be")
        return found

    def recall(self, k: int = CALIBRATED_K[0]) -> float:
        """The lower of both recalls."""
        return min(recall[k] for recall in (self.text_recall, self.image_recall) if recall)

    @property
    def reached(self) -> bool:
        """Whether the codes find what they should."""
        return all(self.recall(k) >= WANTED_RECALL for k in CALIBRATED_K)

    def candidates_for(self, k: int) -> int:
        """Rows to score exactly for the best ``k``.

        Example:
            >>> Calibration(0, 0, 0, {10: 64, 100: 400}).candidates_for(250)
            1000
        """
        for length in CALIBRATED_K:
            if k <= length:
                return self.candidates[length]
        return -(-self.candidates[CALIBRATED_K[-1]] * k // CALIBRATED_K[-1])


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One query of the calibration.

    Attributes:
        truth: Its exact ranking, a row more than the longest ``CALIBRATED_K`` where there are so many.
        rough: What the codes answered, the most candidates that are considered.
        exact_scores: Exact scores of any rows; only asked where rows tie.
    """

    truth: Ranked
    rough: Rough
    exact_scores: Callable[[NDArray[np.int64]], NDArray[np.float32]]


def calibrated(rows: int, texts: Sequence[Trial], images: Sequence[Trial]) -> Calibration:
    """Choose the candidates by what the codes found of the truth.

    Args:
        rows: Rows of the archive.
        texts: Queries by text; may be empty.
        images: Queries by image, at least one.
    """
    candidates: dict[int, int] = {}
    text_recall: dict[int, float] = {}
    image_recall: dict[int, float] = {}
    for k in CALIBRATED_K:
        places = [[_places(trial, k) for trial in trials] for trials in (texts, images) if trials]
        count = float(_LEAST_CANDIDATES + k)
        while count < MOST_CANDIDATES and min(_recall(p, count) for p in places) < WANTED_RECALL:
            count = min(count * _STEP, float(MOST_CANDIDATES))
        candidates[k] = int(count)
        image_recall[k] = _recall(places[-1], count)
        if texts:
            text_recall[k] = _recall(places[0], count)
    return Calibration(rows, len(texts), len(images), candidates, text_recall, image_recall)


def _places(trial: Trial, k: int) -> NDArray[np.float64]:
    """Places among the candidates of k rows that are as good as the exact best; inf where one is missing.

    Rows of equal score are equally good: where more tie for the last place than fit, any of them counts.
    """
    truth, rough = trial.truth, trial.rough
    rows = rough.rows[np.argsort(-rough.scores, kind="stable")]
    if len(truth) > k and truth.scores[k] == truth.scores[k - 1]:
        good = trial.exact_scores(rows) >= truth.scores[k - 1]
    else:
        good = np.isin(rows, truth.rows[:k])
    places = np.full(min(k, len(truth)), np.inf)
    found = np.flatnonzero(good)[: len(places)]
    places[: len(found)] = found
    return places


def _recall(places: Sequence[NDArray[np.float64]], count: float) -> float:
    return float(np.mean([np.mean(found < int(count)) for found in places]))
