"""Area under the ROC curve and average precision, with ties."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.ranking_scores import average_precision, roc_auc_from_histograms


def test_the_area_counts_pairs_in_the_right_order():
    # Positives at 1, 2; negatives at 0, 0, 1, 1: six pairs are right, two tie, of eight.
    assert roc_auc_from_histograms(np.array([0, 1, 1]), np.array([2, 2, 0])) == 7 / 8
    assert roc_auc_from_histograms(np.array([0, 3]), np.array([5, 0])) == 1
    assert roc_auc_from_histograms(np.array([3, 0]), np.array([0, 5])) == 0
    assert roc_auc_from_histograms(np.array([0, 3]), np.array([0, 5])) == 0.5


def test_with_one_side_alone_there_is_no_curve():
    assert roc_auc_from_histograms(np.array([0, 0]), np.array([1, 2])) is None
    assert roc_auc_from_histograms(np.array([1, 2]), np.array([0, 0])) is None


def test_a_hundred_million_pixels_do_not_overflow():
    side = np.full(256, 10**8 // 256, np.int64)
    assert roc_auc_from_histograms(side, side) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_area_equals_a_loop_over_pairs(seed):
    generator = np.random.default_rng(seed)
    positives, negatives = generator.integers(0, 6, 30), generator.integers(0, 5, 50)
    wins = sum((p > n) + 0.5 * (p == n) for p in positives.tolist() for n in negatives.tolist())
    counts = [np.bincount(values, minlength=6) for values in (positives, negatives)]
    assert roc_auc_from_histograms(*counts) == pytest.approx(wins / 1500)


def test_average_precision_on_paper():
    # Relevant at ranks 1 and 3: (1 / 1 + 2 / 3) / 2.
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx(5 / 6)
    # The second relevant ties with another: both are found together, 2 of 3.
    assert average_precision(np.array([0.9, 0.7, 0.7]), np.array([True, False, True])) == pytest.approx(5 / 6)
    assert average_precision(np.zeros(8), np.arange(8) < 2) == 0.25


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_a_loop_over_thresholds(seed):
    generator = np.random.default_rng(seed)
    scores, relevant = generator.integers(0, 9, 40) / 8, generator.random(40) < 0.3
    precisions = []
    for own in scores[relevant]:
        found = [bool(wanted) for score, wanted in zip(scores, relevant, strict=True) if score >= own]
        precisions.append(sum(found) / len(found))
    assert average_precision(scores, relevant) == pytest.approx(np.mean(precisions))


def test_lists_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="equally long"):
        roc_auc_from_histograms(np.zeros(3, int), np.zeros(4, int))
    for scores, relevant in (([1.0], [False]), ([1.0], [True, True]), ([np.nan], [True])):
        with pytest.raises(InputError, match="at least one relevant"):
            average_precision(np.array(scores), np.array(relevant))
