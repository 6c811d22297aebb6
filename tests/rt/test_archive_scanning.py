"""Fast ways of scanning against the slow ones: the same rows, scores and ties."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lrsclip_rt.archive.half_floats import float32_from_half
from lrsclip_rt.archive.mapped_pages import PageBudget, release_pages
from lrsclip_rt.archive.place_blocks import RUN_ROWS, PlaceBlocks
from lrsclip_rt.archive.ranking import Ranker
from lrsclip_rt.archive.records import Producer, SegmentRecord
from lrsclip_rt.archive.scanning import best_rows
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.where import touching_box


def segments_from_rows(rows: NDArray[np.float16], size: int) -> tuple[Segment, ...]:
    segments = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        record = SegmentRecord(len(segments) + 1, start, len(part), Producer("fp32", "x"))
        zero: Any = np.zeros(len(part))
        segments.append(Segment(record, part, zero, zero, zero, zero, zero, zero))
    return tuple(segments)


def test_every_finite_half_becomes_the_same_float() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 8)
    converted = float32_from_half(finite)
    assert converted.dtype == np.float32
    assert converted.tobytes() == finite.astype(np.float32).tobytes()


def test_halves_are_converted_in_any_shape() -> None:
    for shape in ((0, 16), (1, 1), (700, 300), (3, 200_000)):
        rows = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
        assert (float32_from_half(rows) == rows.astype(np.float32)).all()
    strided = np.random.default_rng(1).standard_normal((9, 8)).astype(np.float16)[::2]
    assert (float32_from_half(strided) == strided.astype(np.float32)).all()


@pytest.fixture(scope="module")
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 400),
    distinct=st.integers(1, 400),
    count=st.integers(1, 90),
    size=st.integers(1, 400),
    share=st.none() | st.floats(0, 1),
    dim=st.sampled_from([8, 24, 100]),
)
def test_the_scan_by_faiss_equals_the_plain_one_in_every_tie(
    workers: ThreadPoolExecutor,
    seed: int,
    rows: int,
    distinct: int,
    count: int,
    size: int,
    share: float | None,
    dim: int,
) -> None:
    pytest.importorskip("faiss", reason="the fast scan is faiss's")
    from lrsclip_rt.archive.exact_scanning import best_rows_by_faiss

    rng = np.random.default_rng(seed)
    half = makers.unit_rows(distinct, seed, dim=dim)[rng.integers(0, distinct, rows)].astype(np.float16)
    segments = segments_from_rows(half, size)
    queries = makers.unit_rows(2, seed + 1, dim=dim)
    passing = None if share is None else [rng.random(s.record.rows) < share for s in segments]
    pages = PageBudget([segment.f16 for segment in segments])
    fast = best_rows_by_faiss(segments, queries, count, passing=passing, workers=workers, pages=pages)
    plain = best_rows(segments, queries, count, passing=passing)
    for one, other in zip(fast, plain, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores.tolist() == other.scores.tolist()


def test_thousands_of_equal_rows_are_left_to_the_plain_scan(
    workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="the fast scan is faiss's")
    from lrsclip_rt.archive import exact_scanning

    monkeypatch.setattr(exact_scanning, "_MOST_CANDIDATES", 64)
    rows = np.repeat(makers.unit_rows(2, 3, dim=32), 500, axis=0).astype(np.float16)
    segments, queries = segments_from_rows(rows, 700), makers.unit_rows(1, 4, dim=32)
    pages = PageBudget([])
    [fast] = exact_scanning.best_rows_by_faiss(segments, queries, 20, workers=workers, pages=pages)
    [plain] = best_rows(segments, queries, 20)
    assert fast.rows.tolist() == plain.rows.tolist()


@pytest.mark.parametrize("queries", [1, 40])
def test_a_ranker_is_exact_for_few_and_for_many_queries(queries: int) -> None:
    rows = makers.unit_rows(3000, 1, dim=32).astype(np.float16)
    segments = segments_from_rows(rows, 1100)
    asked = makers.unit_rows(queries, 2, dim=32)
    found = Ranker(segments).exactly(asked, 15, None, 3000)
    for one, other in zip(found, best_rows(segments, asked, 15), strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores.tolist() == other.scores.tolist()


boxes = st.tuples(st.floats(-180, 180), st.floats(-90, 89), st.floats(0, 30), st.floats(0, 20), st.booleans())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(boxes, min_size=1, max_size=12),
    repeats=st.integers(1, 60),
    asked=boxes,
    missing=st.integers(0, 400),
)
def test_runs_of_boxes_say_what_every_box_says(
    rows: list[tuple[float, float, float, float, bool]],
    repeats: int,
    asked: tuple[float, float, float, float, bool],
    missing: int,
) -> None:
    def box(west: float, south: float, width: float, height: float, across: bool) -> tuple[float, ...]:
        east = west + width
        if across or east > 180:
            west, east = 180 - width / 2, -180 + width / 2 + 1e-9
        return west, south, east, min(90.0, south + height)

    made = np.repeat(np.array([box(*row) for row in rows]), repeats, axis=0)
    if missing < len(made):
        made[missing] = np.nan
    west, south, east, north = box(*asked)
    found = PlaceBlocks(made).touching((west, south, east, north))
    assert found.tolist() == touching_box(made, (west, south, east, north)).tolist()


def test_runs_of_no_rows_touch_nothing() -> None:
    assert PlaceBlocks(np.empty((0, 4))).touching((0, 0, 1, 1)).tolist() == []
    alone = np.full((RUN_ROWS + 1, 4), np.nan)
    assert not PlaceBlocks(alone).touching((-180, -90, 180, 90)).any()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system cannot give pages back")
def test_touched_pages_are_given_back_before_they_are_too_many(tmp_path: Path) -> None:
    path = tmp_path / "rows.f16"
    np.full((64 << 20) // 2, 1.5, np.float16).tofile(path)
    mapped = np.asarray(np.memmap(path, np.float16, "r")).reshape(-1, 512)

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        start = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
        return int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1]) << 10

    assert mapped.sum(dtype=np.float64) == 1.5 * mapped.size
    assert resident() > 60 << 20
    PageBudget([mapped]).touched(scanned_bytes=2 << 30)
    assert resident() > 60 << 20, "an archive that fits keeps its pages"
    budget = PageBudget([mapped], limit=32 << 20, kept=0)
    budget.touched(rows=10)
    assert resident() > 60 << 20
    budget.touched(scanned_bytes=mapped.nbytes)
    assert resident() < 1 << 20
    assert mapped[7, 7] == 1.5
    assert not release_pages(np.zeros(3))
