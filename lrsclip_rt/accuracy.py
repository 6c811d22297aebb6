"""Scores of zero-shot classification: top-1, recall per class, and what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.intervals import Interval, mean_interval

__all__ = ["ClassificationMetrics", "classification_metrics", "confusion_matrix", "top1_interval"]


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
    predicted, labels = _checked(predicted, labels, len(classes))
    right = predicted == labels
    per_class = {
        name: 100 * float(right[labels == index].mean())
        for index, name in enumerate(classes)
        if (labels == index).any()
    }
    return ClassificationMetrics(top1=100 * float(right.mean()), per_class=per_class, images=len(labels))


def confusion_matrix(
    predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """Count images by true class and by what they were taken for.

    Args:
        predicted: (N,) int, the best class of each image.
        labels: (N,) int, the right class of each image.
        classes: C.

    Returns:
        (C, C) int64, rows are true classes, columns predictions.

    Raises:
        InputError: As :func:`classification_metrics`.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    predicted, labels = _checked(predicted, labels, classes)
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def top1_interval(
    predicted: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of top-1 over the images [%].

    Raises:
        InputError: If there are no images or lengths differ.
    """
    if predicted.shape != labels.shape:
        raise InputError(f"predictions {predicted.shape} and labels {labels.shape} must be equally long")
    return mean_interval(100.0 * (predicted == labels), resamples=resamples, seed=seed)


def _checked(
    predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: int
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != labels.shape or len(labels) == 0:
        raise InputError(
            f"predictions {predicted.shape} and labels {labels.shape} "
            "must be two equally long lists, not empty"
        )
    for name, values in (("prediction", predicted), ("label", labels)):
        if values.min() < 0 or values.max() >= classes:
            raise InputError(f"{name}s are {values.min()} to {values.max()}, expected 0 to {classes - 1}")
    return predicted, labels
