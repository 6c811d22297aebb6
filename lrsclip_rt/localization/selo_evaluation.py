"""Score a model's maps of annotated scenes, and rank the cells of a mosaic scene."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.intervals import Interval, mean_interval
from lrsclip_rt.localization.fusion import centre_pixels
from lrsclip_rt.localization.heatmap import Heatmap
from lrsclip_rt.localization.pipeline import Localization
from lrsclip_rt.localization.selo_annotations import MosaicTruth, SeloQuery
from lrsclip_rt.localization.selo_map import selo_map
from lrsclip_rt.localization.selo_metrics import SeloScores, outline_mask, score_levels
from lrsclip_rt.ranking_scores import average_precision

__all__ = [
    "QueryResult",
    "SeloSummary",
    "class_phrase",
    "levels_from_heatmap",
    "levels_of",
    "mosaic_precisions",
    "refused_queries",
    "scene_of_mosaic",
    "scored_queries",
    "summary_of",
]

SCENE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True, eq=False)
class QueryResult:
    """One query, its scores, and the (H, W) uint8 map that was scored."""

    query: SeloQuery
    scores: SeloScores
    levels: NDArray[np.uint8]

    def as_dict(self) -> dict[str, Any]:
        """A row of the command line's output."""
        return {"scene": self.query.scene, "caption": self.query.caption, **scores_record(self.scores)}


@dataclass(frozen=True, slots=True)
class SeloSummary:
    """Plain means over the queries, and bootstrap intervals over the queries.

    Attributes:
        rsu: Mean salient area.
        ras: Mean attention shift, lower is better.
        rda: Mean discrete attention.
        rmi: Mean indicator.
        rmi_interval: Of ``rmi``.
        roc_auc: Mean area under the pixel ROC curve, over the queries that have one; None without any.
        roc_auc_interval: Of ``roc_auc``.
        queries: Queries that were scored.
    """

    rsu: float
    ras: float
    rda: float
    rmi: float
    rmi_interval: Interval
    roc_auc: float | None
    roc_auc_interval: Interval | None
    queries: int

    def as_dict(self) -> dict[str, Any]:
        """The means and intervals in the form of the command line."""
        rmi, auc = self.rmi_interval, self.roc_auc_interval
        return {
            "rsu": self.rsu,
            "ras": self.ras,
            "rda": self.rda,
            "rmi": self.rmi,
            "rmi_ci95": [rmi.low, rmi.high],
            "roc_auc": self.roc_auc,
            "roc_auc_ci95": None if auc is None else [auc.low, auc.high],
        }


def refused_queries(queries: Sequence[SeloQuery], height: int, width: int) -> list[tuple[str, str]]:
    """``(query, reason)`` of those whose outlines do not lie in a scene of ``height x width`` px."""
    refused = []
    for query in queries:
        try:
            outline_mask(query.outlines, height, width)
        except InputError as error:
            refused.append((query.label, str(error)))
    return refused


def scored_queries(found: Localization, queries: Sequence[SeloQuery]) -> Iterator[QueryResult]:
    """Score the maps of one scene, one at a time.

    Args:
        found: One heat map a query, in order.
        queries: Whose outlines lie in the scene.

    Raises:
        InputError: If the numbers differ, or an outline lies outside.
    """
    if len(found) != len(queries):
        raise InputError(f"got {len(found)} heat maps and {len(queries)} queries; expected as many")
    for index, query in enumerate(queries):
        levels = levels_of(found, index)
        yield QueryResult(query, score_levels(levels, query.outlines), levels)


def levels_of(found: Localization, index: int) -> NDArray[np.uint8]:
    """The map of text number ``index`` that is scored: (H, W) uint8 at source resolution.

    In selo mode it is the published one; the heat maps of other modes are stretched alike and not smoothed.
    """
    return levels_from_heatmap(found[index]) if found.cells is None else selo_map(found.cells, index)


def levels_from_heatmap(heatmap: Heatmap) -> NDArray[np.uint8]:
    """A heat map from its lowest to its highest score as 0 to 255: (H, W) uint8 at source resolution.

    A pixel takes the value of its fusion cell; missing cells are 0.
    """
    values = np.nan_to_num(heatmap.normalised, nan=0.0).astype(np.float64)
    levels = np.asarray(255.0 * values).astype(np.uint8)
    rows = centre_pixels(levels.shape[0], heatmap.height)
    cols = centre_pixels(levels.shape[1], heatmap.width)
    return np.ascontiguousarray(levels[np.ix_(rows, cols)])


def summary_of(scores: Sequence[SeloScores]) -> SeloSummary:
    """Means over the queries with their intervals.

    Raises:
        InputError: If there is no query.
    """
    if not scores:
        raise InputError("no query could be scored, so there is no mean")
    rmi = [one.rmi for one in scores]
    areas = [one.roc_auc for one in scores if one.roc_auc is not None]
    return SeloSummary(
        rsu=float(np.mean([one.rsu for one in scores])),
        ras=float(np.mean([one.ras for one in scores])),
        rda=float(np.mean([one.rda for one in scores])),
        rmi=float(np.mean(rmi)),
        rmi_interval=mean_interval(rmi),
        roc_auc=float(np.mean(areas)) if areas else None,
        roc_auc_interval=mean_interval(areas) if areas else None,
        queries=len(scores),
    )


def scores_record(scores: SeloScores) -> dict[str, Any]:
    """One query's scores as plain values."""
    return {
        "rsu": scores.rsu,
        "ras": scores.ras,
        "rda": scores.rda,
        "rmi": scores.rmi,
        "roc_auc": scores.roc_auc,
        "peaks": len(scores.peaks),
        "constant_map": scores.constant,
    }


def scene_of_mosaic(truth: MosaicTruth) -> Path:
    """The image that lies beside the truth under the same name.

    Raises:
        InputError: If there is none, or more than one.
    """
    found = [p for p in (truth.path.with_suffix(suffix) for suffix in SCENE_SUFFIXES) if p.is_file()]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{truth.path} needs its scene beside it, one of {truth.path.stem}"
            f"{', '.join(SCENE_SUFFIXES)}; found {names}"
        )
    return found[0]


def class_phrase(name: str) -> str:
    """What stands for a class in a prompt.

    Example:
        >>> class_phrase("StorageTanks"), class_phrase("river_lake")
        ('storage tanks', 'river lake')
    """
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").split()).lower()


def mosaic_precisions(found: Localization, truth: MosaicTruth) -> dict[str, float]:
    """Average precision of each class: its cells should have the highest mean of its map.

    Args:
        found: One heat map a class, in the order of ``truth.names``.
        truth: The cells.

    Raises:
        InputError: If the numbers differ, or a cell leaves the scene.
    """
    if len(found) != len(truth.names):
        raise InputError(f"got {len(found)} heat maps for {len(truth.names)} classes; expected as many")
    height, width = found[0].height, found[0].width
    for window in truth.windows:
        if window.col_off + window.width > width or window.row_off + window.height > height:
            raise InputError(
                f"{truth.path}: cell {window.as_list()} leaves the scene of {height} x {width} px; "
                "is it the truth of this scene?"
            )
    own = np.array(truth.classes)
    precisions = {}
    for index, name in enumerate(truth.names):
        levels = levels_of(found, index)
        means = np.array(
            [
                levels[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width].mean()
                for w in truth.windows
            ]
        )
        precisions[name] = average_precision(means, own == name)
    return precisions
