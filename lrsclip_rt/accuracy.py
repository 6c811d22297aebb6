"""Scores of zero-shot classification: top-1 and recall per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = ["ClassificationMetrics", "classification_metrics"]


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """Zero-shot classification.

    Attributes:
        top1: Images whose best class is the right one [%].
        per_class: Recall of each class that has images [%], in class order.
        images: Images that were classified.
    """

    top1: float
    per_class: dict[str, float]
    images: int

    def as_dict(self) -> dict[str, Any]:
        """``{"top1", "per_class"}``, the form of the command line."""
        return {"top1": self.top1, "per_class": dict(self.per_class)}


def classification_metrics(
    predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> ClassificationMetrics:
    """Top-1 accuracy and recall per class.

    Args:
        predicted: (N,) int, the best class of each image.
        labels: (N,) int, the right class of each image.
        classes: The C class names.

    Raises:
        InputError: If there are no images, lengths differ, or an index names no class.

    Example:
        >>> classification_metrics(np.array([0, 1, 1]), np.array([0, 0, 1]), ["forest", "river"]).per_class
        {'forest': 50.0, 'river': 100.0}
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != labels.shape or len(labels) == 0:
        raise InputError(
            f"predictions {predicted.shape} and labels {labels.shape} "
            "must be two equally long lists, not empty"
        )
    for name, values in (("prediction", predicted), ("label", labels)):
        if values.min() < 0 or values.max() >= len(classes):
            raise InputError(
                f"{name}s are {values.min()} to {values.max()}, expected 0 to {len(classes) - 1}"
            )
    right = predicted == labels
    per_class = {
        name: 100 * float(right[labels == index].mean())
        for index, name in enumerate(classes)
        if (labels == index).any()
    }
    return ClassificationMetrics(top1=100 * float(right.mean()), per_class=per_class, images=len(labels))
