"""The top-k kernels on the host against the archive's exact search, ties and all."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from kernel_host import HostKernels, KernelError, compile_for_host, skip_a_barrier
from kernel_launches import Ranking, best_on_host
from numpy.typing import NDArray

from lrsclip_kernels import TOPK
from lrsclip_kernels.launches import topk_merge_shared_bytes
from lrsclip_rt.archive import Producer
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.scanning import best_rows
from lrsclip_rt.archive.segments import Segment, int8_from_rows


def segment_of(rows: NDArray[np.float16]) -> Segment:
    """Rows as the archive's search takes them."""
    codes, scale = int8_from_rows(rows)
    none = np.zeros(len(rows))
    record = SegmentRecord(1, 0, len(rows), Producer("fp16", "made"))
    numbers = none.astype(np.int64)
    return Segment(
        record, rows, codes, scale, np.zeros((len(rows), 4)), numbers, numbers, none.astype(np.int32)
    )


def best_of_scores(scores: NDArray[np.float32], k: int) -> Ranking:
    """By score and then by row, straight from the definition; ``scores`` is (Q, N)."""
    rows = np.full((len(scores), k), -1, np.int64)
    best = np.full((len(scores), k), -np.inf, np.float32)
    for q, of_query in enumerate(scores):
        order = np.lexsort((np.arange(len(of_query)), -of_query))[:k]
        rows[q, : len(order)], best[q, : len(order)] = order, of_query[order]
    return rows, best


def scores_of_codes(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    queries: NDArray[np.int8],
    query_scales: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(Q, N) float32: whole sums, then the row's scale, then the query's."""
    sums = queries.astype(np.int64) @ codes.astype(np.int64).T
    return np.asarray(sums.astype(np.float32) * scales * query_scales[:, None])


def assert_same(found: Ranking, expected: Ranking) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))


def unit_rows(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    rows = rng.standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def exact_rows(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float16]:
    """Few and small multiples of 1/16: every sum is exact in float32, and many rows tie."""
    return (rng.integers(-2, 3, (count, dim)) / 16).astype(np.float16)


CASES = [
    (1, 8, 1, 1),
    (5, 8, 2, 10),
    (400, 24, 1, 3),
    (1003, 64, 4, 10),
    (1700, 72, 5, 100),
    (900, 136, 9, 256),
]
"""N, D, Q, k."""


@pytest.mark.parametrize(("count", "dim", "queries", "k"), CASES)
def test_exact_float16_rows_rank_as_in_the_archive_ties_to_the_lower_row(
    topk_kernels: HostKernels, count: int, dim: int, queries: int, k: int
) -> None:
    rng = np.random.default_rng(count)
    rows, asked = exact_rows(rng, count, dim), exact_rows(rng, queries, dim).astype(np.float32)
    rankings = best_rows([segment_of(rows)], asked, k)
    found_rows, found_scores = best_on_host(topk_kernels, rows, asked, k)
    for q, ranked in enumerate(rankings):
        assert (found_rows[q, : len(ranked)] == ranked.rows).all()
        assert (found_scores[q, : len(ranked)] == ranked.scores).all()
        assert (found_rows[q, len(ranked) :] == -1).all()
        assert (found_scores[q, len(ranked) :] == -np.inf).all()
    if count > 1000:
        assert any(len(np.unique(ranked.scores)) < len(ranked) for ranked in rankings)  # there are ties


@pytest.mark.parametrize(("count", "dim", "queries", "k"), CASES)
def test_int8_rows_rank_as_numpy_ranks_them(
    topk_kernels: HostKernels, count: int, dim: int, queries: int, k: int
) -> None:
    rng = np.random.default_rng(count)
    rows = unit_rows(rng, count, dim).astype(np.float16)
    rows[count // 2 :] = rows[: count - count // 2]  # each row twice
    codes, scales = int8_from_rows(rows)
    asked, query_scales = int8_from_rows(unit_rows(rng, queries, dim).astype(np.float16))
    expected = best_of_scores(scores_of_codes(codes, scales, asked, query_scales), k)
    assert_same(best_on_host(topk_kernels, codes, asked, k, scales=(scales, query_scales)), expected)


def test_int8_sums_beyond_float32s_whole_numbers_are_rounded_alike(topk_kernels: HostKernels) -> None:
    rng = np.random.default_rng(3)
    codes = rng.choice(np.array([126, 127], np.int8), (300, 1208))  # sums about 1.9e7
    scales, query_scales = np.ones(300, np.float32), np.array([1.0], np.float32)
    asked = np.full((1, 1208), 127, np.int8)
    expected = best_of_scores(scores_of_codes(codes, scales, asked, query_scales), 256)
    assert expected[1].max() > 2**24
    assert_same(best_on_host(topk_kernels, codes, asked, 256, scales=(scales, query_scales)), expected)


def test_rows_of_any_numbers_are_within_a_thousandth_of_the_archive(topk_kernels: HostKernels) -> None:
    rng = np.random.default_rng(5)
    rows, asked, k = unit_rows(rng, 1500, 512).astype(np.float16), unit_rows(rng, 3, 512), 50
    found_rows, found_scores = best_on_host(topk_kernels, rows, asked, k)
    for q, ranked in enumerate(best_rows([segment_of(rows)], asked, k)):
        np.testing.assert_allclose(found_scores[q], ranked.scores, rtol=0, atol=1e-3)
        true = rows[found_rows[q]].astype(np.float64) @ asked[q].astype(np.float64)
        assert (true >= ranked.scores[-1] - 1e-3).all()
        assert len(set(found_rows[q].tolist())) == k


def test_only_passing_rows_take_part(topk_kernels: HostKernels) -> None:
    rng = np.random.default_rng(6)
    rows, asked = exact_rows(rng, 900, 16), exact_rows(rng, 2, 16).astype(np.float32)
    passing = rng.random(900) < 0.02
    found_rows, found_scores = best_on_host(topk_kernels, rows, asked, 20, passing=passing)
    for q, ranked in enumerate(best_rows([segment_of(rows)], asked, 20, passing=[passing])):
        assert 0 < len(ranked) < 20
        assert (found_rows[q, : len(ranked)] == ranked.rows).all()
        assert (found_scores[q, : len(ranked)] == ranked.scores).all()
        assert (found_rows[q, len(ranked) :] == -1).all()


def test_rising_scores_replace_the_best_again_and_again(topk_kernels: HostKernels) -> None:
    # The worst order: every row is better than all before it, so the newcomers overflow at every turn.
    rows = np.zeros((3000, 8), np.float16)
    rows[:, 0] = np.arange(3000) / 4096
    rows[:, 1] = (np.arange(3000) % 2) / 8192
    asked = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    scores = (asked.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    for k in (1, 256, 500):
        found = best_on_host(topk_kernels, rows, asked, k, rows_per_block=3000)
        assert_same(found, best_of_scores(scores + np.float32(0), k))


def test_zeros_of_both_signs_tie_and_nan_ranks_last(topk_kernels: HostKernels) -> None:
    codes = np.zeros((6, 8), np.int8)
    codes[:, 0] = [0, 1, 0, -1, 0, 1]
    scales = np.array([1, -0.0, 1, 1, np.nan, np.inf], np.float32)
    found, scores = best_on_host(
        topk_kernels, codes, codes[1:2], 7, scales=(scales, np.array([1], np.float32))
    )
    assert found[0].tolist() == [5, 0, 1, 2, 3, 4, -1]
    assert scores[0, :4].tolist() == [np.inf, 0.0, 0.0, 0.0]
    assert np.isnan(scores[0, 5])
    assert scores[0, 6] == -np.inf


def test_rows_are_counted_from_the_base(topk_kernels: HostKernels) -> None:
    rows = np.zeros((3, 8), np.float16)
    found, _ = best_on_host(topk_kernels, rows, np.zeros((1, 8), np.float32), 4, base=1 << 40)
    assert found[0].tolist() == [1 << 40, (1 << 40) + 1, (1 << 40) + 2, -1]


def test_the_last_of_two_thousand_million_rows_keeps_its_number(topk_kernels: HostKernels) -> None:
    # Only the second pass sees such rows here: keys as the first would write them.
    keys = np.array([[[0x80000000 << 32 | (0xFFFFFFFF - row) for row in (5, 2**31 - 1)]]], np.uint64)
    rows, scores = np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32)
    sizes = [np.int32(1), np.int32(1), np.int32(2), np.int32(256), np.int64(0)]
    shared = topk_merge_shared_bytes(256)
    topk_kernels.launch(
        "topk_merge", (1, 1, 1), TOPK.threads, [keys, *sizes, rows, scores], shared_bytes=shared
    )
    assert rows.tolist() == [[5, 2**31 - 1]]
    assert scores.tolist() == [[0.0, 0.0]]


def test_every_schedule_and_split_gives_the_same_ranking(topk_kernels: HostKernels) -> None:
    rng = np.random.default_rng(7)
    rows, asked = exact_rows(rng, 700, 24), exact_rows(rng, 2, 24).astype(np.float32)
    first = best_on_host(topk_kernels, rows, asked, 30)
    for seed, split in enumerate((64, 100, 129, 350, 700, 5000)):
        assert_same(best_on_host(topk_kernels, rows, asked, 30, rows_per_block=split, seed=seed), first)


def test_every_barrier_is_needed(tmp_path: Path) -> None:
    copy, barriers = skip_a_barrier(TOPK, tmp_path)
    kernels = HostKernels(compile_for_host(copy, TOPK.kernels(), tmp_path, options=["-O1"]))
    rng = np.random.default_rng(9)
    rows, asked = exact_rows(rng, 1200, 72), exact_rows(rng, 2, 72).astype(np.float32)

    def rank() -> Ranking:
        return best_on_host(kernels, rows, asked, 200, rows_per_block=600)

    expected = rank()
    assert barriers == 8
    skipped = ctypes.c_int.in_dll(kernels.library, "skipped_barrier")
    for number in range(barriers):
        skipped.value = number
        with pytest.raises(KernelError):  # a race, or what comes of one
            rank()
    skipped.value = -1
    assert_same(rank(), expected)
