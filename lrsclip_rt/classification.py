"""Zero-shot classification: class names and prompt templates instead of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = ["Classification", "TextEmbedder", "check_templates", "class_embeddings", "classify"]


class TextEmbedder(Protocol):
    """Anything that embeds texts; an ``Embedder`` does."""

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts: ``(N, D) float32``, unit rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """The classes of N images among C.

    Attributes:
        classes: C names.
        best: ``(N,) intp``, the class with the largest cosine; the first of equal ones.
        scores: ``(N, C) float32``, cosines.
        probabilities: ``(N, C) float32``, softmax of the scaled cosines; rows sum to 1.
    """

    classes: tuple[str, ...]
    best: NDArray[np.intp]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.best)

    def __repr__(self) -> str:
        return f"Classification({len(self)} images, {len(self.classes)} classes)"

    def label(self, row: int) -> str:
        """The name of the best class of an image."""
        return self.classes[int(self.best[row])]


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Templates that hold the placeholder ``{}`` once each.

    Raises:
        InputError: If one does not.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(
                f"template {template!r} holds {{}} {template.count('{}')} times, expected once, "
                "as in 'a satellite photo of {}.'"
            )
    return tuple(templates)


def class_embeddings(
    model: TextEmbedder, classes: Sequence[str], templates: Sequence[str] = ("{}",)
) -> NDArray[np.float32]:
    """Embed class names: each template filled and embedded, their mean normalised again.

    Args:
        model: Embeds the texts.
        classes: Distinct names.
        templates: With the placeholder ``{}``; one or more.

    Returns:
        ``(C, D) float32``, unit rows.

    Raises:
        InputError: If there is no class or template, a name is blank or given twice, or a template has not
            exactly one placeholder.
    """
    names = [name.strip() for name in classes]
    if not names or not templates:
        raise InputError(
            f"got {len(names)} classes and {len(templates)} templates, expected at least one of each"
        )
    if "" in names:
        raise InputError(f"class {names.index('')} has an empty name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"class names must differ, but {', '.join(twice[:5])} occurs more than once")
    # Not str.format: a name or template may hold other braces.
    prompts = [t.replace("{}", name) for name in names for t in check_templates(templates)]
    rows = model.embed_texts(prompts).reshape(len(names), len(templates), -1)
    means = rows.astype(np.float64).mean(axis=1)
    unit: NDArray[np.float32] = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    return unit


def classify(
    images: NDArray[np.float32],
    class_rows: NDArray[np.float32],
    *,
    classes: Sequence[str],
    logit_scale: float,
) -> Classification:
    """The best class of each image.

    Args:
        images: ``(N, D) float32``, unit rows.
        class_rows: ``(C, D) float32``, from ``class_embeddings``.
        classes: Their names.
        logit_scale: Factor of the cosines before the softmax; a bundle's ``spec.logit_scale``.

    Raises:
        InputError: If the shapes do not agree.

    Example:
        >>> result = classify(np.eye(2, 3), np.eye(3), classes=["port", "farm", "sea"], logit_scale=10.0)
        >>> result.label(0), result.label(1)
        ('port', 'farm')
    """
    if images.ndim != 2 or class_rows.shape != (len(classes), images.shape[-1]):
        found = f"images {images.shape} and class rows {class_rows.shape} of {len(classes)} classes"
        raise InputError(f"{found} must agree in D and C; embed both with the same model")
    scores = images.astype(np.float32) @ class_rows.astype(np.float32).T
    # The largest is subtracted, so that no exponential overflows.
    scaled = logit_scale * scores.astype(np.float64)
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return Classification(tuple(classes), scores.argmax(axis=1), scores, probabilities)
