"""What a demonstration found, before it is drawn: plain frozen records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive import Hit
from lrsclip_rt.localization import Heatmap
from lrsclip_rt.rendering import RenderedScene

__all__ = [
    "Answer",
    "DemoScene",
    "FoundPlace",
    "LocatedText",
    "ModelFacts",
    "PrecisionFacts",
    "SceneRanking",
    "Story",
    "Timings",
]

Ring = tuple[tuple[float, float], ...]
"""Outline as (col, row) vertices [px]."""


@dataclass(frozen=True, slots=True, eq=False)
class DemoScene:
    """A scene of the demonstration.

    Attributes:
        title: Its name for people.
        path: The file.
        height: Rows [px].
        width: Columns [px].
        gsd_m: Ground width of a pixel [m]; None where unknown.
        truth: Everything known of a rendered scene; None for a user's image.
    """

    title: str
    path: Path
    height: int
    width: int
    gsd_m: float | None
    truth: RenderedScene | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that are really there; empty where nothing is known."""
        return () if self.truth is None else tuple(o.name for o in self.truth.objects)


@dataclass(frozen=True, slots=True)
class FoundPlace:
    """A hit, held against the truth.

    Attributes:
        hit: What the search answered.
        title: Name of its scene or file.
        right: Whether the thing asked for is there; None where no truth is known, or it is nowhere.
        shows: Classes that the tile really shows; None where no truth is known.
    """

    hit: Hit
    title: str
    right: bool | None = None
    shows: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One query and its hits.

    Attributes:
        text: The words, or what the example shows.
        places: Hits, best first.
        query_ms: From the words or the picture to the hits [ms].
        presence: Mean cosine of the best rows; None for an empty archive.
        expected: The class asked for; None where no truth is known.
        scenes_with_it: Scenes that show it.
        example: The picture of a query by example, (h, w, 3) uint8.
        here: Whether presence reaches the model's threshold; None where it has none.
    """

    text: str
    places: tuple[FoundPlace, ...]
    query_ms: float
    presence: float | None
    expected: str | None = None
    scenes_with_it: int = 0
    example: NDArray[np.uint8] | None = None
    here: bool | None = None

    @property
    def best_score(self) -> float:
        """Cosine of the best hit; NaN without one."""
        return self.places[0].hit.score if self.places else float("nan")

    @property
    def first_right(self) -> int | None:
        """Rank of the first right hit among those shown."""
        return next((p.hit.rank for p in self.places if p.right), None)


@dataclass(frozen=True, slots=True)
class SceneRanking:
    """A long description and how it ranks the scenes.

    Attributes:
        text: The description.
        tokens: Its length with both markers.
        expected: Number of the scene that it describes.
        scores: Mean cosine with the tiles of every scene, in the scenes' order.
        short_scores: The same for its first ``short_tokens`` tokens alone.
        short_tokens: The usual limit of CLIP models.
        query_ms: From the words to the hits [ms].
    """

    text: str
    tokens: int
    expected: int
    scores: tuple[float, ...]
    short_scores: tuple[float, ...]
    short_tokens: int
    query_ms: float

    @property
    def rank(self) -> int:
        """Rank of the right scene, 1 for the best; among equal scores the worst."""
        return rank_of(self.scores, self.expected)

    @property
    def short_rank(self) -> int:
        """As ``rank``, for the beginning of the text alone."""
        return rank_of(self.short_scores, self.expected)


def rank_of(scores: Sequence[float], index: int) -> int:
    """Rank of ``scores[index]``, 1 for the highest; ties count against it.

    Example:
        >>> rank_of([0.2, 0.5, 0.2], 0)
        3
    """
    return sum(score >= scores[index] for score in scores)


@dataclass(frozen=True, slots=True, eq=False)
class LocatedText:
    """One heat map, held against the truth.

    Attributes:
        scene: Number of the scene.
        heatmap: Where the text fits.
        expected: The class asked for; None where no truth is known.
        outlines: True outlines of the class, closed by their first vertex.
        inside: Whether the peak lies in one of them; None where no truth is known.
        shown: Whether the report draws it; the others only count.
    """

    scene: int
    heatmap: Heatmap
    expected: str | None = None
    outlines: tuple[Ring, ...] = ()
    inside: bool | None = None
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Timings:
    """How long the steps took on this machine.

    Attributes:
        index_rows: Tiles embedded.
        index_s: Time for them, files to archive [s].
        query_ms: One time a query, words to hits [ms]; each text was new to the model.
        localize_windows: Windows embedded for heat maps.
        localize_texts: Texts scored on them.
        localize_s: Time for both [s].
        total_s: The whole demonstration up to the report [s].
    """

    index_rows: int
    index_s: float
    query_ms: tuple[float, ...]
    localize_windows: int
    localize_texts: int
    localize_s: float
    total_s: float

    @property
    def tiles_per_second(self) -> float:
        """Tiles embedded and stored in a second."""
        return self.index_rows / self.index_s if self.index_s > 0 else 0.0

    @property
    def query_p50_ms(self) -> float:
        """Median time of a query [ms]."""
        return statistics.median(self.query_ms) if self.query_ms else 0.0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What answered.

    Attributes:
        name: The model's short name.
        architecture: Its shape.
        dim: D.
        image_size: Edge of the square that it sees [px].
        context_length: Tokens that it reads at most.
        precision: Of the weights and arithmetic.
        backend: The inference library.
        size_bytes: Size of all files of the bundle.
        how_made: Where the weights come from.
        training_data: What they were trained on, with its terms.
        licence: Of the weights.
        built_in: Whether it came with the package.
    """

    name: str
    architecture: str
    dim: int
    image_size: int
    context_length: int
    precision: str
    backend: str
    size_bytes: int
    how_made: str
    training_data: str
    licence: str
    built_in: bool


@dataclass(frozen=True, slots=True)
class PrecisionFacts:
    """One precision of the model on this machine.

    Attributes:
        name: For example ``int8-cpu``.
        backend: The inference library.
        cosine: Mean cosine of the probe's images with fp32; None without images in the probe.
        passed: Whether it is within its gate.
        images_per_second: Of the image tower alone.
        query_ms: Of a short query [ms].
        size_bytes: Of its files.
    """

    name: str
    backend: str
    cosine: float | None
    passed: bool
    images_per_second: float
    query_ms: float
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Story:
    """A whole demonstration.

    Attributes:
        model: What answered.
        scenes: The rendered scenes; of a user's images only those that were localized in.
        answers: Short queries.
        rankings: Long queries.
        example: The query by picture.
        absent: The query for something that is in no scene.
        located: Heat maps.
        timings: Of this machine.
        machine: Name of the processor and its number of CPUs.
        folder: Where everything lies.
        images: The user's folder; None for the rendered scenes.
        sources: Files in the archive.
        sheet: Some of the user's files, evenly spread, for a contact sheet.
        precisions: What each precision of the model does here.
        failures: Files that could not be used, with the reason.
    """

    model: ModelFacts
    scenes: tuple[DemoScene, ...]
    answers: tuple[Answer, ...]
    rankings: tuple[SceneRanking, ...]
    example: Answer | None
    absent: Answer | None
    located: tuple[LocatedText, ...]
    timings: Timings
    machine: str
    folder: Path
    images: Path | None = None
    sources: int = 0
    sheet: tuple[Path, ...] = ()
    precisions: tuple[PrecisionFacts, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def report(self) -> Path:
        """The page that shows it."""
        return self.folder / "report.html"

    @property
    def first_right(self) -> int:
        """Short queries whose best hit is right."""
        return sum(answer.first_right == 1 for answer in self.answers)

    @property
    def rankings_right(self) -> int:
        """Long queries that rank the scene they describe first."""
        return sum(ranking.rank == 1 for ranking in self.rankings)

    @property
    def peaks_inside(self) -> int:
        """Heat maps whose peak lies in the true object."""
        return sum(located.inside is True for located in self.located)

    def summary(self) -> dict[str, Any]:
        """The whole story in one JSON object."""
        timings = self.timings
        row: dict[str, Any] = {
            "part": "summary",
            "model": self.model.name,
            "precision": self.model.precision,
            "backend": self.model.backend,
            "sources": self.sources,
            "tiles": timings.index_rows,
            "tiles_per_second": round(timings.tiles_per_second, 2),
            "query_p50_ms": round(timings.query_p50_ms, 2),
            "localize_s": round(timings.localize_s, 3),
            "failed": len(self.failures),
        }
        if self.images is None:
            row["first_hit_right"] = [self.first_right, len(self.answers)]
            row["long_text_right"] = [self.rankings_right, len(self.rankings)]
            row["peak_inside"] = [self.peaks_inside, len(self.located)]
        return {**row, "report": str(self.report)}
