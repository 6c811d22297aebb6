"""Bootstrap intervals: seeded, equal to a plain loop, and as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt import intervals
from lrsclip_rt.errors import InputError
from lrsclip_rt.intervals import mean_interval, paired_bootstrap, resample_counts


def test_the_interval_is_as_wide_as_the_standard_error():
    values = np.random.default_rng(0).standard_normal(400)
    found = mean_interval(values, resamples=4000)
    error = values.std() / 20
    assert found.std == pytest.approx(error, rel=0.05)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_it_equals_a_loop_over_resamples_and_is_seeded():
    values = np.random.default_rng(1).random(23)
    draws = np.random.default_rng(7).multinomial(23, np.full(23, 1 / 23), size=60)
    means = [np.mean(np.repeat(values, draw)) for draw in draws]
    found = mean_interval(values, resamples=60, seed=7)
    assert (found.mean, found.std) == pytest.approx((np.mean(means), np.std(means)))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found != mean_interval(values, resamples=60, seed=8)


def test_blocks_change_nothing(monkeypatch):
    whole = np.concatenate(list(resample_counts(30, resamples=50, seed=2)))
    monkeypatch.setattr(intervals, "BLOCK_BYTES", 8 * 30 * 7)
    parts = list(resample_counts(30, resamples=50, seed=2))
    assert len(parts) == 8
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(axis=1) == 30).all()


def test_a_small_steady_gain_is_decided_in_pairs_though_the_intervals_overlap():
    generator = np.random.default_rng(3)
    hard = generator.random(40)  # what makes a query hard for both
    a, b = hard + 0.05, hard + 0.01 * generator.standard_normal(40)
    found = paired_bootstrap(a, b)
    assert mean_interval(a).low < mean_interval(b).high
    assert found.decided
    assert found.difference == pytest.approx(np.mean(a - b))
    assert found.above == 1
    swapped = paired_bootstrap(b, a)
    assert swapped.difference == -found.difference
    assert swapped.above == 0
    assert swapped.decided


def test_equal_scores_are_a_tie():
    found = paired_bootstrap([0.3, 0.9], [0.3, 0.9])
    assert (found.difference, found.above, found.decided) == (0, 0.5, False)


def test_what_cannot_be_resampled_is_named():
    with pytest.raises(InputError, match="finite scores"):
        mean_interval([])
    with pytest.raises(InputError, match="finite scores"):
        mean_interval([0.1, np.nan])
    with pytest.raises(InputError, match="both of every query"):
        paired_bootstrap([0.1], [0.1, 0.2])
    with pytest.raises(InputError, match="units and resamples"):
        mean_interval([0.1], resamples=0)
