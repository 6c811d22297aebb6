"""Does a model notice one wrong detail in a long description? Rendered pictures, so the truth is exact.

A case is a picture, its description and the same description with exactly one detail made wrong: a colour, a
count, a place, an object. It is right when the cosine with the true one is the higher of the two; a tie
is not right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.bootstrapping import Estimate, estimate_from_resamples, resampled_percentages
from lrsclip_rt.demonstration.understanding import SCENE_SIDE, TILE_SIDE
from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, RenderedScene, render_scene, render_tile
from lrsclip_rt.rendering.descriptions import contradiction

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = [
    "ALL",
    "Case",
    "NoticedShare",
    "contradicted_cases",
    "noticed_shares",
    "unseen_scenes",
    "unseen_tiles",
]

Group = Literal["tile", "scene"]
ALL = "all"
"""Stands for every group or every kind in a share."""

TIE = 1e-6
"""Cosines that differ by less are equal: so much is left of float32's rounding."""


@dataclass(frozen=True, slots=True)
class Case:
    """One description against one contradiction of it.

    Attributes:
        group: ``tile`` with one class, or ``scene`` with many.
        picture: Number of the picture.
        kind: Kind of the wrong detail.
        right: The detail as it is.
        wrong: What was said instead.
        margin: Cosine with the true description less that with the contradiction.
    """

    group: Group
    picture: int
    kind: str
    right: str
    wrong: str
    margin: float

    @property
    def noticed(self) -> bool:
        """Whether the true description is nearer."""
        return self.margin > TIE


@dataclass(frozen=True, slots=True)
class NoticedShare:
    """How many wrong details of one kind were noticed.

    Attributes:
        group: ``tile``, ``scene`` or ``all``.
        kind: Kind of detail, or ``all``.
        pictures: Pictures with such a case.
        cases: Cases.
        share: Cases that were noticed, with an interval over pictures [%].
    """

    group: str
    kind: str
    pictures: int
    cases: int
    share: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        counts = {"pictures": self.pictures, "cases": self.cases}
        return {"group": self.group, "kind": self.kind, **counts, "share": self.share.as_dict()}


def unseen_tiles(each_class: int, *, size: int = TILE_SIDE) -> Iterator[tuple[Group, RenderedScene]]:
    """Tiles of the first test seeds, ``each_class`` of every class."""
    for name in CLASSES:
        for seed in TEST_SEEDS[:each_class]:
            yield "tile", render_tile(name, seed, size=size)


def unseen_scenes(count: int, *, size: int = SCENE_SIDE) -> Iterator[tuple[Group, RenderedScene]]:
    """Scenes of the first test seeds, with eight or nine classes each."""
    for seed in TEST_SEEDS[:count]:
        yield "scene", render_scene(seed, height=size, width=size)


def contradicted_cases(
    model: Embedder, pictures: Iterable[tuple[Group, RenderedScene]], *, each: int = 4
) -> list[Case]:
    """Embed pictures, their descriptions and ``each`` contradictions of every one.

    Args:
        model: From ``lrsclip_rt.load``.
        pictures: Read once; their pixels are let go as they are embedded.
        each: Contradictions of a picture; their kinds take turns.

    Raises:
        InputError: If a picture has fewer contradictions.
    """
    texts: list[str] = []
    cases: list[tuple[Group, int, str, str, str]] = []

    def described() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for number, (group, scene) in enumerate(pictures):
            found = [contradiction(scene, index) for index in range(each)]
            texts.extend([scene.long, *(one.text for one in found)])
            cases.extend((group, number, one.kind, one.right, one.wrong) for one in found)
            yield number, scene.pixels

    rows = [batch.embeddings for batch in model.stream_images(described())]
    images = np.concatenate(rows).astype(np.float64)  # (N, D)
    said = model.embed_texts(texts).astype(np.float64).reshape(len(images), 1 + each, -1)
    cosines = np.einsum("nd,ntd->nt", images, said)
    margins = (cosines[:, :1] - cosines[:, 1:]).reshape(-1)
    return [Case(*case, margin=float(margin)) for case, margin in zip(cases, margins, strict=True)]


def noticed_shares(cases: Sequence[Case], *, resamples: int = 1000, seed: int = 0) -> list[NoticedShare]:
    """Shares over everything, of each group and of each kind; groups and kinds without a case are left out.

    Args:
        cases: At least one.
        resamples: Bootstrap samples of the pictures, which keep their cases together.
        seed: Of the bootstrap.

    Raises:
        InputError: If there is no case.
    """
    groups = [ALL, *sorted({case.group for case in cases}, reverse=True)]
    kinds = [ALL, *sorted({case.kind for case in cases})]
    columns = {pair: i for i, pair in enumerate((g, k) for g in groups for k in kinds)}
    pictures = 1 + max((case.picture for case in cases), default=-1)
    asked = np.zeros((pictures, len(columns)))
    hits = np.zeros_like(asked)
    for case in cases:
        for pair in ((g, k) for g in (ALL, case.group) for k in (ALL, case.kind)):
            asked[case.picture, columns[pair]] += 1
            hits[case.picture, columns[pair]] += case.noticed
    resampled = resampled_percentages(hits, asked, resamples=resamples, seed=seed)
    shares = []
    for (group, kind), column in columns.items():
        total = int(asked[:, column].sum())
        if total:
            value = 100 * hits[:, column].sum() / total
            share = estimate_from_resamples(value, resampled[:, column])
            seen = int((asked[:, column] > 0).sum())
            shares.append(NoticedShare(group, kind, seen, total, share))
    return shares
