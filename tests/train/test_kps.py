from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.kps import effective_table, stretch_table, stretched_length


def by_formula(old: np.ndarray, keep: int, ratio: int) -> np.ndarray:
    """Row by row in float64, as reference formulas are written."""
    last = len(old) - 1
    rows = [old[i] for i in range(keep)]
    for i in range(last - keep):
        rows += [((ratio - j) * old[keep + i] + j * old[keep + i + 1]) / ratio for j in range(ratio)]
    rows += [old[last] + k * (old[last] - old[last - 1]) / ratio for k in range(ratio)]
    return np.stack(rows)


def test_77_rows_become_248_by_the_published_formulas() -> None:
    old = np.random.default_rng(0).standard_normal((77, 64))
    new = stretch_table(torch.from_numpy(old)).numpy()
    assert new.shape == (248, 64)
    for i in range(20):
        np.testing.assert_allclose(new[i], old[i], rtol=1e-6, atol=1e-7)
    for i in range(56):
        for j in range(4):
            between = ((4 - j) * old[20 + i] + j * old[21 + i]) / 4
            np.testing.assert_allclose(new[20 + 4 * i + j], between, rtol=1e-5, atol=1e-6)
    for k in range(4):
        beyond = old[76] + k * (old[76] - old[75]) / 4
        np.testing.assert_allclose(new[244 + k], beyond, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 30), st.integers(1, 6), st.integers(2, 20))
def test_other_keep_and_ratio_follow_the_same_formulas(keep: int, ratio: int, more: int) -> None:
    old = np.random.default_rng(keep + 100 * ratio).standard_normal((keep + more, 8))
    new = stretch_table(torch.from_numpy(old), keep=keep, ratio=ratio)
    assert len(new) == stretched_length(len(old), keep=keep, ratio=ratio)
    np.testing.assert_allclose(new.numpy(), by_formula(old, keep, ratio), rtol=1e-5, atol=1e-5)


def test_kept_rows_and_old_rows_are_taken_over_bit_for_bit() -> None:
    old = torch.randn(77, 64, generator=torch.Generator().manual_seed(1))
    new = stretch_table(old)
    assert torch.equal(new[:20], old[:20])
    assert torch.equal(new[20::4], old[20:])


def test_a_float16_table_is_stretched_in_float32() -> None:
    old = torch.randn(77, 64, generator=torch.Generator().manual_seed(2)).half()
    new = stretch_table(old)
    assert new.dtype == torch.float32
    np.testing.assert_allclose(new.numpy(), by_formula(old.double().numpy(), 20, 4), rtol=1e-6, atol=1e-6)


def test_the_effective_table_is_the_frozen_head_and_the_trained_tail() -> None:
    frozen, trained = torch.zeros(248, 3), torch.ones(248, 3)
    table = effective_table(frozen, trained)
    assert table.shape == (248, 3)
    assert float(table[:20].sum()) == 0
    assert float(table[20:].mean()) == 1
    assert float(effective_table(frozen, trained, keep=7)[6:8].sum()) == 3


@pytest.mark.parametrize(
    ("shape", "keep", "ratio"), [((21, 4), 20, 4), ((77,), 20, 4), ((77, 4), -1, 4), ((77, 4), 20, 0)]
)
def test_a_table_that_cannot_be_stretched_is_refused(shape: tuple[int, ...], keep: int, ratio: int) -> None:
    with pytest.raises(CheckpointError, match="keep"):
        stretch_table(torch.zeros(shape), keep=keep, ratio=ratio)
