"""Does a model understand rendered scenes that it has never seen? Two measurements with exact truth.

Classes: for each class, tiles are rendered from unseen seeds; a tile is right when the phrase of its class
has the highest cosine among the phrases of all classes. The class ranks first when more than half of its
tiles are right. The same is asked of the zones of whole scenes, each cut out as the smallest square
around it.

Peaks: every class of every scene is localized; a heat map is right when its peak lies inside the true
outline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.demonstration.judging import outlines_of, point_inside
from lrsclip_rt.localization import localize
from lrsclip_rt.localization.windows import SELO_STEPS
from lrsclip_rt.rendering import (
    CLASSES,
    PHRASES,
    TEST_SEEDS,
    RenderedScene,
    TruthObject,
    render_scene,
    render_tile,
)

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["ClassScore", "PeakScore", "Understanding", "class_scores", "measure_understanding", "peak_scores"]

TILE_SIDE = 256
"""Edge of the rendered tiles [px]; an archive's tiles have the same."""

SCENE_SIDE = 1024
"""Edge of the rendered scenes [px]."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How often one class was recognized.

    Attributes:
        name: The class.
        tiles: Pictures asked.
        right: Pictures whose own phrase ranked first.
        taken_for: The class that most of the others were taken for; None where all were right.
    """

    name: str
    tiles: int
    right: int
    taken_for: str | None

    @property
    def ranks_first(self) -> bool:
        """Whether more than half of the pictures were recognized."""
        return 2 * self.right > self.tiles


@dataclass(frozen=True, slots=True)
class PeakScore:
    """Where one heat map peaked.

    Attributes:
        name: The class asked for.
        seed: Of the scene.
        peak: (col, row) [px]; None for an empty map.
        inside: Whether it lies inside the true outline.
    """

    name: str
    seed: int
    peak: tuple[float, float] | None
    inside: bool


@dataclass(frozen=True, slots=True)
class Understanding:
    """Both measurements.

    Attributes:
        tiles: A score a class, of rendered tiles.
        zones: The same, of zones cut out of scenes; classes that no scene shows are left out.
        peaks: A score a class and scene.
    """

    tiles: tuple[ClassScore, ...]
    zones: tuple[ClassScore, ...]
    peaks: tuple[PeakScore, ...]

    @property
    def classes_first(self) -> float:
        """Share of the classes that rank first on their tiles."""
        return sum(score.ranks_first for score in self.tiles) / len(self.tiles)

    @property
    def zones_first(self) -> float:
        """Share of the classes that rank first on their zones."""
        return sum(score.ranks_first for score in self.zones) / len(self.zones)

    @property
    def peaks_inside(self) -> float:
        """Share of the heat maps that peak inside the true object."""
        return sum(score.inside for score in self.peaks) / len(self.peaks)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values; shares in [0, 1]."""
        return {
            "classes_first": round(self.classes_first, 4),
            "tile_top1": round(_accuracy(self.tiles), 4),
            "zones_first": round(self.zones_first, 4),
            "zone_top1": round(_accuracy(self.zones), 4),
            "peaks_inside": round(self.peaks_inside, 4),
            "tiles": {score.name: [score.right, score.tiles, score.taken_for] for score in self.tiles},
            "zones": {score.name: [score.right, score.tiles, score.taken_for] for score in self.zones},
            "peaks": {
                name: _inside_of(self.peaks, name) for name in CLASSES if _inside_of(self.peaks, name)[1]
            },
        }


def measure_understanding(
    model: Embedder,
    *,
    tiles: int = 10,
    scenes: int = 6,
    first_seed: int = TEST_SEEDS[0],
    steps: Sequence[int] = SELO_STEPS,
) -> Understanding:
    """Ask a model about rendered tiles and scenes of the test seeds.

    Args:
        model: From ``lrsclip_rt.load``.
        tiles: Tiles a class.
        scenes: Scenes to cut zones from and to localize in.
        first_seed: Tiles and scenes take the seeds from here on.
        steps: Window edges of the localization [px].
    """
    phrases = model.embed_texts([PHRASES[name] for name in CLASSES])
    landscapes = [render_scene(first_seed + i, height=SCENE_SIDE, width=SCENE_SIDE) for i in range(scenes)]
    return Understanding(
        tiles=class_scores(model, _tiles(tiles, first_seed), phrases),
        zones=class_scores(model, _zones(landscapes), phrases),
        peaks=tuple(score for scene in landscapes for score in peak_scores(model, scene, steps=steps)),
    )


def class_scores(
    model: Embedder, pictures: Iterator[tuple[str, NDArray[np.uint8]]], phrases: NDArray[np.float32]
) -> tuple[ClassScore, ...]:
    """Which class each picture is taken for.

    Args:
        model: Embeds the pictures.
        pictures: Class and (h, w, 3) uint8 pixels.
        phrases: (C, D) embeddings of the phrases of ``CLASSES``.

    Returns:
        A score a class, in the order of ``CLASSES``; classes without a picture are left out.
    """
    taken: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}
    for batch in model.stream_images(pictures):
        best = (batch.embeddings @ phrases.T).argmax(axis=1)
        for name, index in zip(batch.keys, best.tolist(), strict=True):
            taken[name][CLASSES[index]] += 1
    return tuple(_class_score(name, counts) for name, counts in taken.items() if counts)


def peak_scores(
    model: Embedder, scene: RenderedScene, *, steps: Sequence[int] = SELO_STEPS
) -> tuple[PeakScore, ...]:
    """Localize every class of a scene."""
    names = [thing.name for thing in scene.objects]
    maps = localize(model, scene.pixels, [PHRASES[name] for name in names], mode="selo", steps=steps)
    scores = []
    for name, heatmap in zip(names, maps, strict=True):
        peak = heatmap.peak
        inside = peak is not None and any(point_inside(peak, ring) for ring in outlines_of(scene, name))
        scores.append(PeakScore(name, scene.seed, peak, inside))
    return tuple(scores)


def _class_score(name: str, counts: Counter[str]) -> ClassScore:
    others = Counter({other: n for other, n in counts.items() if other != name})
    taken_for = others.most_common(1)[0][0] if others else None
    return ClassScore(name, sum(counts.values()), counts[name], taken_for)


def _tiles(count: int, first_seed: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name in CLASSES:
        for seed in range(first_seed, first_seed + count):
            yield name, render_tile(name, seed, size=TILE_SIDE).pixels


def _zones(scenes: Sequence[RenderedScene]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for scene in scenes:
        for thing in scene.objects:
            yield thing.name, _square_around(scene, thing)


def _square_around(scene: RenderedScene, thing: TruthObject) -> NDArray[np.uint8]:
    """The smallest square that holds an object's box, moved into the scene; (s, s, 3) uint8, a copy."""
    height, width = scene.pixels.shape[:2]
    side = min(max(thing.height, thing.width), height, width)
    top = min(max(0, thing.row_off + (thing.height - side) // 2), height - side)
    left = min(max(0, thing.col_off + (thing.width - side) // 2), width - side)
    return np.ascontiguousarray(scene.pixels[top : top + side, left : left + side])


def _accuracy(scores: Sequence[ClassScore]) -> float:
    return sum(score.right for score in scores) / sum(score.tiles for score in scores)


def _inside_of(peaks: Sequence[PeakScore], name: str) -> list[int]:
    found = [score.inside for score in peaks if score.name == name]
    return [sum(found), len(found)]
