"""Scores of zero-shot classification."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.accuracy import classification_metrics
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
