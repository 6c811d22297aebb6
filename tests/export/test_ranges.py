"""Range rules: what they propose for distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_export.number_formats import FORMATS
from lrsclip_export.ranges import RANGE_RULES, entropy_range, magnitudes_of, mse_range, proposed_ranges

INT8 = FORMATS["int8"]
RULES = tuple(RANGE_RULES)


def rows_with_one_outlier(value: float) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((2000, 16)).astype(np.float32)
    rows[0, 0] = value
    return rows


def test_the_histogram_counts_every_number_once() -> None:
    rows = rows_with_one_outlier(9.0)
    counts, largest = magnitudes_of(rows, 9.0)
    assert (len(counts), counts.sum(), largest) == (2048, rows.size, 9.0)
    assert counts[-1] == 1


@pytest.mark.parametrize("rule", ["percentile-99.9", "percentile-99.99", "entropy"])
def test_a_lone_outlier_is_cut_by_the_rules_that_count(rule) -> None:
    ranges = proposed_ranges(rows_with_one_outlier(500.0), 500.0, INT8, RULES)
    assert ranges["max"] == 500.0
    assert ranges[rule] < 100


@pytest.mark.parametrize("rule", RULES)
def test_an_even_distribution_keeps_its_range(rule) -> None:
    rows = np.random.default_rng(2).uniform(-3, 3, (4000, 16)).astype(np.float32)
    assert 2.9 < proposed_ranges(rows, 3.0, INT8, RULES)[rule] <= 3.0


def test_the_least_squared_error_is_found_by_trying_every_range() -> None:
    rows = np.random.default_rng(4).standard_normal((2000, 16)).astype(np.float32) ** 3
    largest = float(np.abs(rows).max())
    tried = np.linspace(0.02, 1, 300) * largest
    errors = [np.square(rows - INT8.rounded(rows, reach / 127)).mean() for reach in tried]
    found = mse_range(magnitudes_of(rows, largest), INT8)
    assert np.square(rows - INT8.rounded(rows, found / 127)).mean() <= 1.1 * min(errors)
    assert found < 0.95 * largest


def test_the_divergence_is_least_where_128_levels_suffice() -> None:
    # Exactly 128 magnitudes, evenly used: nothing is lost at the full range.
    rows = np.repeat(np.arange(1, 129, dtype=np.float32), 50).reshape(100, -1)
    assert entropy_range(magnitudes_of(rows, 128.0), INT8) == 128.0


def test_an_activation_of_zeros_has_a_range() -> None:
    assert proposed_ranges(np.zeros((4, 4), np.float32), 0.0, INT8, RULES) == {"max": 1.0}
