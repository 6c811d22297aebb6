"""Retrieval scores, with a rule for ties and repeated captions.

Captions repeat within and across images, and naive ranking then depends on the order of the rows. Here

- a candidate is a caption entry: each distinct caption of an image, once;
- an image finds its caption if fewer than K entries of OTHER images score no less than its best own entry;
- a caption finds its image if fewer than K OTHER images score no less than its own;
- the same words under another image are a rival, never a hit.

Equal texts and equal images must score equal to the last bit, so rows that repeat are scored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.intervals import Interval, interval_from_samples, resample_counts

__all__ = [
    "Recalls",
    "RetrievalMetrics",
    "RetrievalRanks",
    "bootstrap_interval",
    "retrieval_metrics",
    "retrieval_ranks",
]

CUTS = (1, 5, 10)
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Recalls:
    """Recall at 1, 5 and 10 of one direction [%]."""

    r1: float
    r5: float
    r10: float


@dataclass(frozen=True, slots=True)
class RetrievalMetrics:
    """Both directions of one granularity.

    Attributes:
        t2i: Captions that find their image [%].
        i2t: Images that find a caption of theirs [%].
        images: Images that were searched.
        captions: Caption entries that asked.
    """

    t2i: Recalls
    i2t: Recalls
    images: int
    captions: int

    @property
    def mean_recall(self) -> float:
        """The mean of the six recalls, mR [%]."""
        recalls = (self.t2i, self.i2t)
        return sum(value for recall in recalls for value in (recall.r1, recall.r5, recall.r10)) / 6

    def as_dict(self) -> dict[str, Any]:
        """``{"t2i": {"r1", "r5", "r10"}, "i2t": {...}, "mR"}``, the form of the command line."""
        return {
            "t2i": {"r1": self.t2i.r1, "r5": self.t2i.r5, "r10": self.t2i.r10},
            "i2t": {"r1": self.i2t.r1, "r5": self.i2t.r5, "r10": self.i2t.r10},
            "mR": self.mean_recall,
        }


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalRanks:
    """How many rivals beat or equal the right answer, for every query.

    Attributes:
        t2i: (E,) int64, other images that score at least as high, per caption entry.
        i2t: (N,) int64, entries of other images that score at least as high, per image; -1 for an image
            that is a rival but not a query, such as one without captions.
        entry_image: (E,) int64, the image of each caption entry that is a query.
    """

    t2i: NDArray[np.int64]
    i2t: NDArray[np.int64]
    entry_image: NDArray[np.int64]

    def metrics(self) -> RetrievalMetrics:
        """Recalls of these ranks."""
        asked = self.i2t[self.i2t >= 0]
        return RetrievalMetrics(
            t2i=_recalls(self.t2i), i2t=_recalls(asked), images=len(self.i2t), captions=len(self.t2i)
        )

    def asked_only(self, images: NDArray[np.bool_]) -> RetrievalRanks:
        """The same search with fewer queries: these images and their captions. The rivals stay.

        Args:
            images: (N,) bool, the images that still ask.

        Raises:
            InputError: If the length differs, or no query is left.
        """
        if images.shape != self.i2t.shape:
            raise InputError(f"the choice {images.shape} must name each of the {len(self.i2t)} images")
        kept = images[self.entry_image]
        if not kept.any():
            raise InputError(f"none of the {len(self.i2t)} images asks; choose at least one with captions")
        return RetrievalRanks(
            t2i=self.t2i[kept], i2t=np.where(images, self.i2t, -1), entry_image=self.entry_image[kept]
        )


def retrieval_metrics(
    image_embeddings: NDArray[np.float32],
    caption_embeddings: NDArray[np.float32],
    caption_image: NDArray[np.integer[Any]],
    texts: Sequence[str] | None = None,
) -> RetrievalMetrics:
    """Recalls of both directions by the tie rule; see :func:`retrieval_ranks` for the arguments.

    Example:
        >>> images = np.array([[1, 0], [0, 1]], np.float32)
        >>> captions = np.array([[1, 0], [0.6, 0.8], [1, 0]], np.float32)
        >>> metrics = retrieval_metrics(images, captions, np.array([0, 1, 1]), ["a pier", "a dam", "a pier"])
        >>> round(metrics.t2i.r1, 1), metrics.i2t.r1      # the shared caption is no hit for image 0
        (66.7, 50.0)
    """
    return retrieval_ranks(image_embeddings, caption_embeddings, caption_image, texts).metrics()


def retrieval_ranks(
    image_embeddings: NDArray[np.float32],
    caption_embeddings: NDArray[np.float32],
    caption_image: NDArray[np.integer[Any]],
    texts: Sequence[str] | None = None,
) -> RetrievalRanks:
    """Count the rivals of every caption and every image.

    Args:
        image_embeddings: (N, D) float32, unit rows.
        caption_embeddings: (M, D) float32, unit rows.
        caption_image: (M,) int, the row of each caption's image.
        texts: The M captions. Equal texts then share the first one's embedding, and a text that an image
            repeats counts once. Without them every row is an entry of its own.

    Raises:
        InputError: If shapes disagree, a row is not a unit row, or an image index is out of range.
    """
    images, captions, owner = _checked(image_embeddings, caption_embeddings, caption_image, texts)
    if texts is not None:
        captions, owner = _distinct_entries(captions, owner, texts)
    # Rows that repeat are scored once: the same product twice may differ in the last bit.
    unique_images, image_row = np.unique(images, axis=0, return_inverse=True)
    unique_texts, text_row = np.unique(captions, axis=0, return_inverse=True)
    image_row, text_row = image_row.reshape(-1), text_row.reshape(-1)
    return RetrievalRanks(
        t2i=_caption_ranks(unique_images, image_row, unique_texts, text_row, owner),
        i2t=_image_ranks(unique_images, image_row, unique_texts, text_row, owner),
        entry_image=owner,
    )


def bootstrap_interval(ranks: RetrievalRanks, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Resample the images that ask, each with its captions; the candidates stay.

    Args:
        ranks: What :func:`retrieval_ranks` counted.
        resamples: Number of bootstrap samples.
        seed: Seed of the sampling; the same seed gives the same interval.

    Returns:
        The distribution of mR [%].

    Raises:
        InputError: If there is nothing to resample.
    """
    number = len(ranks.i2t)
    hits = np.zeros((number, 6))
    for column, cut in enumerate(CUTS):
        np.add.at(hits[:, column], ranks.entry_image, ranks.t2i < cut)
        hits[:, column + 3] = (ranks.i2t >= 0) & (ranks.i2t < cut)
    queries = np.zeros((number, 6))
    queries[:, :3] = np.bincount(ranks.entry_image, minlength=number)[:, None]
    queries[:, 3:] = (ranks.i2t >= 0)[:, None]

    asking = queries.any(axis=1)
    hits, queries = hits[asking], queries[asking]
    draws = resample_counts(len(hits), resamples=resamples, seed=seed)
    samples = [100 * (block @ hits) / np.maximum(block @ queries, 1) for block in draws]
    return interval_from_samples(np.concatenate(samples).mean(axis=1))


def _checked(
    image_embeddings: NDArray[np.float32],
    caption_embeddings: NDArray[np.float32],
    caption_image: NDArray[np.integer[Any]],
    texts: Sequence[str] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    images = np.asarray(image_embeddings, np.float32)
    captions = np.asarray(caption_embeddings, np.float32)
    owner = np.asarray(caption_image).astype(np.int64, copy=False)
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        raise InputError(
            f"images {images.shape} and captions {captions.shape} "
            "must agree in D; embed both with the same model"
        )
    if len(images) == 0 or len(captions) == 0:
        raise InputError(
            f"found {len(images)} images and {len(captions)} captions, expected at least one of each"
        )
    if owner.shape != (len(captions),) or (texts is not None and len(texts) != len(captions)):
        raise InputError(
            f"{len(captions)} captions need as many image indices and texts, "
            f"got {owner.shape} and {'none' if texts is None else len(texts)}"
        )
    if owner.min() < 0 or owner.max() >= len(images):
        raise InputError(
            f"a caption names image {owner.min()} or {owner.max()}, expected 0 to {len(images) - 1}"
        )
    for name, rows in (("image", images), ("caption", captions)):
        norms = np.linalg.norm(rows, axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= 1e-3))  # written so that NaN is wrong too
        if wrong.size:
            raise InputError(
                f"{name} row {wrong[0]} has norm {norms[wrong[0]]:.4g}, "
                "expected unit rows; divide each by its norm"
            )
    return images, captions, owner


def _distinct_entries(
    captions: NDArray[np.float32], owner: NDArray[np.int64], texts: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    first_row: dict[str, int] = {}
    entries: dict[tuple[int, str], int] = {}
    for row, (image, text) in enumerate(zip(owner.tolist(), texts, strict=True)):
        entries.setdefault((image, text), first_row.setdefault(text, row))
    rows = np.fromiter(entries.values(), np.int64, len(entries))
    images = np.fromiter((image for image, _ in entries), np.int64, len(entries))
    return captions[rows], images


def _caption_ranks(
    unique_images: NDArray[np.float32],
    image_row: NDArray[np.int64],
    unique_texts: NDArray[np.float32],
    text_row: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> NDArray[np.int64]:
    copies = np.bincount(image_row, minlength=len(unique_images))
    ranks = np.empty(len(owner), np.int64)
    step = max(1, BLOCK_BYTES // (8 * len(unique_images)))
    for start in range(0, len(unique_texts), step):
        scores = unique_texts[start : start + step] @ unique_images.T  # (texts, images)
        entries = np.flatnonzero((text_row >= start) & (text_row < start + step))
        for part in np.array_split(entries, -(-len(entries) // step) or 1):
            rows = scores[text_row[part] - start]
            own = scores[text_row[part] - start, image_row[owner[part]]]
            ranks[part] = (rows >= own[:, None]) @ copies - 1  # the image itself is no rival
    return ranks


def _image_ranks(
    unique_images: NDArray[np.float32],
    image_row: NDArray[np.int64],
    unique_texts: NDArray[np.float32],
    text_row: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> NDArray[np.int64]:
    copies = np.bincount(text_row, minlength=len(unique_texts))
    ranks = np.full(len(image_row), -1, np.int64)
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(image_row) + 1))
    step = max(1, BLOCK_BYTES // (8 * len(unique_texts)))
    for start in range(0, len(unique_images), step):
        scores = unique_images[start : start + step] @ unique_texts.T  # (images, texts)
        for image in np.flatnonzero((image_row >= start) & (image_row < start + step)):
            own_entries = text_row[order[bounds[image] : bounds[image + 1]]]
            if len(own_entries) == 0:
                continue
            row = scores[image_row[image] - start]
            best = row[own_entries].max()
            at_least = int(copies[row >= best].sum())
            ranks[image] = at_least - int((row[own_entries] >= best).sum())
    return ranks


def _recalls(ranks: NDArray[np.int64]) -> Recalls:
    if len(ranks) == 0:
        return Recalls(0.0, 0.0, 0.0)
    r1, r5, r10 = (100 * float((ranks < cut).mean()) for cut in CUTS)
    return Recalls(r1, r5, r10)
