"""What a precision may cost on data, and what it did: cosines, recalls and predictions against fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import BundleError, InputError
from lrsclip_rt.evaluation import Recalls, RetrievalMetrics
from lrsclip_rt.json_fields import Fields
from lrsclip_rt.parity import CosineSummary

__all__ = [
    "BINS_PER_DECADE",
    "DECADES",
    "TASK_GATE",
    "CosineDistribution",
    "PredictionChange",
    "RetrievalChange",
    "TaskGate",
]

DECADES = (-12, 0)
"""The histogram of ``1 - cosine`` reaches from 1e-12 to 1; what lies beyond counts in the last bins."""
BINS_PER_DECADE = 8
_BINS = (DECADES[1] - DECADES[0]) * BINS_PER_DECADE


@dataclass(frozen=True, slots=True)
class TaskGate:
    """What a precision may cost on data, in percentage points against fp32.

    One query that crosses one cut, and one prediction, is always allowed, unless the threshold is 0: a small
    set cannot show less.

    Attributes:
        mean_recall_drop: Of retrieval mR.
        class_drop: Of zero-shot top-1 by the classes that captioned images name.
        labelled_drop: Of zero-shot top-1 of a labelled set: 1 of 140 predictions lost net.
    """

    mean_recall_drop: float = 0.5
    class_drop: float = 0.5
    labelled_drop: float = 100 / 140

    def tightened(self, other: Mapping[str, float]) -> TaskGate:
        """This gate with the values of ``other``, none of which may be looser.

        Raises:
            InputError: If a value is unknown, no number, negative, or larger than this gate's.

        Example:
            >>> TaskGate().tightened({"class_drop": 0.25}).class_drop
            0.25
        """
        mine = asdict(self)
        for key, value in other.items():
            if key not in mine:
                raise InputError(f"unknown threshold {key!r}, expected one of {', '.join(mine)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise InputError(f"threshold {key} is {value!r}, expected a number of points from 0")
            if value > mine[key]:
                raise InputError(
                    f"threshold {key} = {value:g} is looser than {mine[key]:g}, which is the most"
                )
            mine[key] = float(value)
        return TaskGate(**mine)


TASK_GATE = TaskGate()
"""What every precision has to keep on data; a bundle may tighten it."""


@dataclass(frozen=True, slots=True)
class CosineDistribution:
    """Cosines of matching rows.

    Attributes:
        rows: How many.
        summary: Their mean, the least one and the first percentile.
        counts: Rows per bin of ``log10(1 - cosine)``, ``BINS_PER_DECADE`` to each of ``DECADES``.
    """

    rows: int
    summary: CosineSummary
    counts: tuple[int, ...]

    @classmethod
    def of(cls, cosines: NDArray[np.float64]) -> CosineDistribution:
        """Describe ``(N,)`` cosines; NaN counts as -1.

        Example:
            >>> found = CosineDistribution.of(np.array([1.0, 0.999]))
            >>> found.rows, found.counts[0], sum(found.counts)
            (2, 1, 2)
        """
        distances = np.maximum(1 - np.nan_to_num(cosines, nan=-1.0), 10.0 ** DECADES[0])
        bins = np.floor((np.log10(distances) - DECADES[0]) * BINS_PER_DECADE).astype(int)
        counts = np.bincount(np.clip(bins, 0, _BINS - 1), minlength=_BINS)
        return cls(len(cosines), CosineSummary.of(cosines), tuple(counts.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; of the histogram the bins that hold something, by log10 of their lower edge."""
        filled = {_edge(i): count for i, count in enumerate(self.counts) if count}
        return {"rows": self.rows, **asdict(self.summary), "histogram": filled}

    @classmethod
    def from_fields(cls, entry: Fields) -> CosineDistribution:
        """The inverse of ``to_dict``.

        Raises:
            BundleError: If a key is missing or unknown, or a value is of another type.
        """
        rows = entry.integer("rows", minimum=1)
        summary = CosineSummary(entry.number("mean"), entry.number("minimum"), entry.number("p1"))
        filled = entry.group("histogram")
        counts = tuple(
            filled.integer(_edge(i), minimum=1) if filled.has(_edge(i)) else 0 for i in range(_BINS)
        )
        filled.end()
        entry.end()
        return cls(rows, summary, counts)


@dataclass(frozen=True, slots=True)
class RetrievalChange:
    """Retrieval at one length of caption, by fp32 and by the precision.

    Attributes:
        captions: ``short`` or ``long``.
        reference: By fp32.
        found: By the precision.
    """

    captions: str
    reference: RetrievalMetrics
    found: RetrievalMetrics

    @property
    def drop(self) -> float:
        """Points of mR that the precision lost; negative where it gained."""
        return self.reference.mean_recall - self.found.mean_recall

    def allowed(self, gate: TaskGate) -> float:
        """The largest drop of mR [points]: the gate's, or what one query at one cut of six is worth."""
        fewest = min(self.reference.images, self.reference.captions)
        return max(gate.mean_recall_drop, 100 / (6 * fewest)) if gate.mean_recall_drop else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``drop`` is added for the reader and never read back."""
        return {
            "captions": self.captions,
            "images": self.reference.images,
            "queries": self.reference.captions,
            "fp32": self.reference.as_dict(),
            "found": self.found.as_dict(),
            "drop": self.drop,
        }

    @classmethod
    def from_fields(cls, entry: Fields) -> RetrievalChange:
        """The inverse of ``to_dict``.

        Raises:
            BundleError: If a key is missing or unknown, or a value is of another type.
        """
        captions = entry.text("captions")
        if captions not in ("short", "long"):
            raise BundleError(f"captions of a task report are short or long, got {captions[:40]!r}")
        images, queries = entry.integer("images", minimum=1), entry.integer("queries", minimum=1)
        reference, found = (
            _metrics_from_fields(entry.group(side), images, queries) for side in ("fp32", "found")
        )
        entry.number("drop")
        entry.end()
        return cls(captions, reference, found)


@dataclass(frozen=True, slots=True)
class PredictionChange:
    """Zero-shot classification by fp32 and by the precision.

    Attributes:
        by: ``labels`` of a labelled set, or ``class`` of captioned images.
        images: Images that were classified.
        classes: Classes to choose from.
        reference_right: Images that fp32 got right.
        found_right: Images that the precision got right.
        changed: Images whose prediction differs, right or not.
    """

    by: str
    images: int
    classes: int
    reference_right: int
    found_right: int
    changed: int

    @property
    def lost(self) -> int:
        """Right predictions lost net; negative where it gained."""
        return self.reference_right - self.found_right

    def allowed(self, gate: TaskGate) -> int:
        """The largest net loss: the gate's share of the images, at least one prediction."""
        points = gate.labelled_drop if self.by == "labels" else gate.class_drop
        # The small addend keeps 140 images times 1/140 from falling below 1 by rounding.
        return max(1, math.floor(self.images * points / 100 + 1e-9)) if points else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``lost`` is added for the reader and never read back."""
        return {**asdict(self), "lost": self.lost}

    @classmethod
    def from_fields(cls, entry: Fields) -> PredictionChange:
        """The inverse of ``to_dict``.

        Raises:
            BundleError: If a key is missing or unknown, or a value is of another type.
        """
        by = entry.text("by")
        if by not in ("labels", "class"):
            raise BundleError(f"predictions of a task report are by labels or class, got {by[:40]!r}")
        images, classes = entry.integer("images", minimum=1), entry.integer("classes", minimum=2)
        keys = ("reference_right", "found_right", "changed")
        right, found, changed = (entry.integer(key, minimum=0, maximum=images) for key in keys)
        entry.number("lost")
        entry.end()
        return cls(by, images, classes, right, found, changed)


def _edge(index: int) -> str:
    return f"{DECADES[0] + index / BINS_PER_DECADE:g}"


def _metrics_from_fields(entry: Fields, images: int, queries: int) -> RetrievalMetrics:
    sides = []
    for key in ("t2i", "i2t"):
        side = entry.group(key)
        sides.append(Recalls(side.number("r1"), side.number("r5"), side.number("r10")))
        side.end()
    entry.number("mR")
    entry.end()
    return RetrievalMetrics(t2i=sides[0], i2t=sides[1], images=images, captions=queries)
