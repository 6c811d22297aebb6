"""Scores of zero-shot classification."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.accuracy import classification_metrics, confusion_matrix, top1_interval
from lrsclip_rt.errors import InputError


def test_top1_and_recall_per_class_are_counted_by_hand():
    metrics = classification_metrics(
        np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2]), ["forest", "river", "parking", "harbour"]
    )
    assert metrics.top1 == pytest.approx(60)
    assert metrics.per_class == pytest.approx({"forest": 100, "river": 100 / 3, "parking": 100})
    assert metrics.as_dict() == {"top1": metrics.top1, "per_class": metrics.per_class}


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0], [0, 1], "equally long"),
        ([], [], "not empty"),
        ([2], [0], "predictions are 2"),
        ([0], [-1], "labels"),
    ],
)
def test_lists_that_do_not_fit_are_named(predicted, labels, message):
    with pytest.raises(InputError, match=message):
        classification_metrics(np.array(predicted, int), np.array(labels, int), ["forest", "river"])


def test_the_confusion_matrix_has_true_classes_as_rows():
    predicted, labels = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2])
    matrix = confusion_matrix(predicted, labels, 4)
    assert matrix.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert 100 * np.trace(matrix) / matrix.sum() == pytest.approx(60)
    with pytest.raises(InputError, match="predictions are 0 to 2"):
        confusion_matrix(predicted, labels, 2)


def test_the_interval_of_top1_surrounds_it():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 300)
    predicted = np.where(generator.random(300) < 0.7, labels, (labels + 1) % 4)
    top1 = 100 * (predicted == labels).mean()
    found = top1_interval(predicted, labels)
    assert found.low < top1 < found.high
    assert found.std == pytest.approx(np.sqrt(top1 * (100 - top1) / 300), rel=0.1)
    with pytest.raises(InputError, match="equally long"):
        top1_interval(predicted, labels[:5])
