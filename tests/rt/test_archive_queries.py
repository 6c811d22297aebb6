from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.archive.queries import examples_query, mixed_query
from lrsclip_rt.errors import InputError


def unit_rows(count: int, seed: int, dim: int = 32) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_examples_weigh_twice_for_and_once_against() -> None:
    like, unlike = unit_rows(3, 0), unit_rows(2, 1)
    expected = 2 * like.mean(axis=0) - unlike.mean(axis=0)
    np.testing.assert_allclose(examples_query(like, unlike), expected / np.linalg.norm(expected), atol=1e-6)


def test_examples_of_one_kind_are_enough() -> None:
    like, none = unit_rows(1, 0), np.empty((0, 32), np.float32)
    np.testing.assert_allclose(examples_query(like, none), like[0], atol=1e-6)
    np.testing.assert_allclose(examples_query(none, like), -like[0], atol=1e-6)
    with pytest.raises(InputError, match="at least one example"):
        examples_query(none, none)
    with pytest.raises(InputError, match="cancel each other"):
        examples_query(like, np.concatenate([2 * like]))


def test_a_mixture_ranks_by_the_mean_of_standardised_scores() -> None:
    """The definition, score by score; the parts' scores have very different spread."""
    rows = unit_rows(500, 3)
    rows[:, 0] *= 5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    parts = [unit_rows(1, 4)[0], np.eye(32, dtype=np.float32)[0], unit_rows(1, 5)[0]]
    standardised = []
    for part in parts:
        scores = rows.astype(np.float64) @ part.astype(np.float64)
        standardised.append((scores - scores.mean()) / scores.std())
    expected = np.mean(standardised, axis=0)
    found = rows.astype(np.float64) @ mixed_query(parts, rows).astype(np.float64)
    assert (np.argsort(-found) == np.argsort(-expected)).all()
    assert np.corrcoef(found, expected)[0, 1] == pytest.approx(1.0, abs=1e-9)
    unweighted = rows @ np.mean(parts, axis=0)
    assert (np.argsort(-unweighted) != np.argsort(-expected)).any()


def test_one_part_is_itself() -> None:
    [part] = unit_rows(1, 1)
    assert mixed_query([part], unit_rows(10, 2)) is part


def test_a_mixture_works_without_a_sample() -> None:
    parts = list(unit_rows(2, 1))
    expected = parts[0] + parts[1]
    for sample in (np.empty((0, 32), np.float32), unit_rows(1, 3)):
        np.testing.assert_allclose(mixed_query(parts, sample), expected / np.linalg.norm(expected), atol=1e-6)
    with pytest.raises(InputError, match="cancel each other"):
        mixed_query([parts[0], -parts[0]], unit_rows(10, 2))
