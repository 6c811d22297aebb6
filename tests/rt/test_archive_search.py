from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, ArchiveWriter, Location, NewTile, Where, tile_id
from lrsclip_rt.archive.places import SAME_PLACE, overlap_share
from lrsclip_rt.archive.presence import presence_hits
from lrsclip_rt.archive.records import Producer, SegmentRecord
from lrsclip_rt.archive.scanning import best_rows, row_scores
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window, tile_grid


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """40 sources of six tiles in segments of 50 rows, and a few duplicated rows."""
    folder = tmp_path_factory.mktemp("search") / "archive"
    with ArchiveWriter(folder, makers.MODEL, makers.FP32, segment_rows=50, block_rows=16) as writer:
        for number in range(40):
            source = writer.add_source(makers.content(number))
            writer.add_location(source, Location("/data", f"{number:03d}.tif"))
            # Every fourth source repeats the rows of source 0: ties.
            writer.append(source, makers.grid(number), makers.unit_rows(6, number if number % 4 else 0))
    with Archive.open(folder) as opened:
        yield opened


def slow_search(rows: NDArray[np.float16], query: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """The twin: one row after the other, sorted by score and then by row."""
    unit = (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))).astype(np.float32)
    scores = [float((row.astype(np.float32) * unit).sum(dtype=np.float32)) for row in rows]
    return sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))[:k]


def all_rows(archive: Archive) -> NDArray[np.float16]:
    return np.concatenate([segment.f16 for segment in archive.mapped_segments])


@pytest.mark.parametrize("k", [1, 3, 10, 100, 1000])
def test_exact_search_equals_the_slow_twin(archive: Archive, k: int) -> None:
    queries = makers.unit_rows(5, 1234)
    rows = all_rows(archive)
    results = archive.search(queries, k=k, merge=False)
    for query, hits in zip(queries, results, strict=True):
        expected = slow_search(rows, query, k)
        assert [(archive.tile(hit.id).row, hit.score) for hit in hits] == expected
        assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))


def test_ties_are_broken_by_row(archive: Archive) -> None:
    row = makers.unit_rows(6, 0)[2]
    [hits] = archive.search(row, k=10, merge=False)
    found = [archive.tile(hit.id).row for hit in hits]
    assert found == [6 * number + 2 for number in range(0, 40, 4)]
    assert len({hit.score for hit in hits}) == 1


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    k=st.integers(1, 100),
    block=st.integers(1, 40),
    passing=st.floats(0, 1),
)
def test_blocks_and_filters_change_nothing(seed: int, count: int, k: int, block: int, passing: float) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct rows, so that there are many ties in many blocks.
    half = makers.unit_rows(7, seed)[rng.integers(0, 7, count)].astype(np.float16)
    segments = segments_from_rows(half, rng.integers(1, count + 1))
    masks = [rng.random(s.record.rows) < passing for s in segments]
    [query] = makers.unit_rows(1, seed + 1)
    mask = np.concatenate(masks)
    expected = [pair for pair in slow_search(half, query, count) if mask[pair[0]]][:k]
    unit = (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))).astype(np.float32)
    [ranked] = best_rows(segments, unit[None], k, passing=masks, block_rows=block)
    assert list(zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True)) == expected


def segments_from_rows(rows: NDArray[np.float16], size: int) -> list[Segment]:
    segments = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        record = SegmentRecord(len(segments) + 1, start, len(part), Producer("fp32", "x"))
        zero: Any = np.zeros(len(part))
        segments.append(Segment(record, part, zero, zero, zero, zero, zero, zero))
    return segments


def test_equal_rows_score_equally_wherever_they_lie() -> None:
    rows = np.repeat(makers.unit_rows(1, 3, dim=512), 1000, axis=0)
    query = makers.unit_rows(1, 4, dim=512)[0]
    assert len(set(row_scores(rows, query).tolist())) == 1
    assert row_scores(rows[:1], query)[0] == row_scores(rows, query)[-1]
    [ranked] = best_rows(segments_from_rows(rows.astype(np.float16), 333), query[None], 20, block_rows=77)
    assert ranked.rows.tolist() == list(range(20))


def test_there_is_one_hits_per_query_always(archive: Archive) -> None:
    assert len(archive.search(makers.unit_rows(3), k=1)) == 3
    assert len(archive.search(makers.unit_rows(1)[0], k=1)) == 1
    assert archive.search(np.empty((0, 16), np.float32)) == []
    nowhere = Where(bbox=(0, 80, 1, 81))
    empty, _ = archive.search(makers.unit_rows(2), where=nowhere)
    assert (len(empty), empty.rows, empty.presence, empty.present) == (0, 0, None, None)


def test_queries_need_not_be_unit_rows(archive: Archive) -> None:
    [query] = makers.unit_rows(1, 8)
    [short], [long] = archive.search(query), archive.search(query * 1000.0)
    assert [hit.id for hit in short] == [hit.id for hit in long]
    assert short[0].score == pytest.approx(long[0].score, abs=1e-6)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((3, 8)), r"archive \(240, 16\) and queries \(3, 8\) must agree in D"),
        (np.ones((2, 2, 16)), "must agree in D"),
        (np.zeros((1, 16)), "zero or not finite"),
        (np.full((1, 16), np.nan), "zero or not finite"),
    ],
)
def test_queries_that_cannot_be_meant_are_refused(archive: Archive, queries: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        archive.search(queries)


def test_k_must_be_positive(archive: Archive) -> None:
    with pytest.raises(InputError, match="k must be at least 1"):
        archive.search(makers.unit_rows(1), k=0)


def test_z_is_the_score_standardised_over_the_sample(archive: Archive) -> None:
    [query] = makers.unit_rows(1, 77)
    [hits] = archive.search(query)
    scores = all_rows(archive).astype(np.float64) @ query.astype(np.float64)
    for hit in hits:
        assert hit.z == pytest.approx((hit.score - scores.mean()) / scores.std(), abs=1e-4)


def test_the_sample_is_fixed_and_bounded(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32) as writer:
        source = writer.add_source(makers.content(0))
        tiles = [NewTile(1, Window(i, 0, 1, 1)) for i in range(5000)]
        writer.append(source, tiles, makers.unit_rows(5000))
    with Archive.open(tmp_path) as one, Archive.open(tmp_path) as two:
        assert one.sample.shape == (4096, 16)
        assert (one.sample == two.sample).all()
        assert len(np.unique(one.sample, axis=0)) == 4096
        [hits] = one.search(makers.unit_rows(1, 9), k=5)
        scores = one.sample.astype(np.float64) @ makers.unit_rows(1, 9)[0].astype(np.float64)
        assert hits[0].z == pytest.approx((hits[0].score - scores.mean()) / scores.std(), abs=1e-4)


def test_presence_is_the_mean_of_the_best_cosines(archive: Archive) -> None:
    [query] = makers.unit_rows(1, 5)
    averaged = presence_hits(len(archive))
    expected = np.mean([score for _, score in slow_search(all_rows(archive), query, averaged)])
    for k in (1, 30):
        for merge in (True, False):
            [hits] = archive.search(query, k=k, merge=merge)
            assert hits.presence == pytest.approx(expected, abs=1e-6)
            assert hits.present is None


def test_below_the_threshold_nothing_is_here(archive: Archive) -> None:
    [query] = makers.unit_rows(1, 5)
    [hits] = archive.search(query)
    assert hits.presence is not None
    [present] = archive.search(query, min_score=hits.presence - 1e-6)
    assert present.present is True
    assert present.hits == hits.hits
    [absent] = archive.search(query, min_score=hits.presence + 1e-6)
    assert absent.present is False
    assert len(absent) == 0
    assert absent.presence == hits.presence
    [nothing] = archive.search(query, where=Where(bbox=(0, 80, 1, 81)), min_score=-1.0)
    assert nothing.present is False


def one_scene(folder: Path, size: int, tiles: list[Window], rows: NDArray[np.float32]) -> Archive:
    with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
        source = writer.add_source(makers.content(0, width=size, height=size))
        writer.append(source, [NewTile(tile.width, tile) for tile in tiles], rows)
    return Archive.open(folder)


def slow_places(windows: list[Window], ranking: list[int], k: int) -> list[tuple[int, int]]:
    """The twin of merging: (row of the best tile, count) of the first k places."""
    places: list[list[int]] = []
    for row in ranking:
        same = [place for place in places if shared(windows[place[0]], windows[row]) > 0.3]
        if same:
            same[0].append(row)
        elif len(places) == k:
            break
        else:
            places.append([row])
    return [(place[0], len(place)) for place in places]


def shared(a: Window, b: Window) -> float:
    """Overlap over the smaller area, counted pixel by pixel."""
    canvas = np.zeros((2, 600, 600), bool)
    for layer, w in zip(canvas, (a, b), strict=True):
        layer[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width] = True
    return float((canvas[0] & canvas[1]).sum() / min(canvas[0].sum(), canvas[1].sum()))


@pytest.mark.parametrize("k", [1, 2, 4, 7, 50])
def test_one_place_is_one_hit_that_counts_the_rest(tmp_path: Path, k: int) -> None:
    windows = [
        *tile_grid(600, 600, size=128, overlap=0.5),
        *tile_grid(600, 600, size=300, overlap=0.25),
    ]
    rows = makers.unit_rows(len(windows), 6)
    [query] = makers.unit_rows(1, 7)
    with one_scene(tmp_path, 600, windows, rows) as archive:
        ranking = [row for row, _ in slow_search(all_rows(archive), query, len(windows))]
        [hits] = archive.search(query, k=k)
        found = [(archive.tile(hit.id).row, hit.count) for hit in hits]
        assert found == slow_places(windows, ranking, k)
        if k == 50:
            assert sum(hit.count for hit in hits) == len(windows)
        [single] = archive.search(query, k=k, merge=False)
        assert [archive.tile(hit.id).row for hit in single] == ranking[:k]
        assert {hit.count for hit in single} == {1}


def test_a_place_that_fills_the_top_of_the_ranking_is_still_one_hit(tmp_path: Path) -> None:
    """Hundreds of tiles of one place rank first, so the first ranking is too short."""
    near = [Window(i, 0, 300, 300) for i in range(200)]
    far = [Window(500, 0, 100, 100), Window(500, 300, 100, 100)]
    [query] = makers.unit_rows(1, 1)
    rows = np.concatenate(
        [np.repeat(query[None], 200, axis=0), -makers.unit_rows(1, 1), makers.unit_rows(1, 2)]
    )
    with one_scene(tmp_path, 600, near + far, rows) as archive:
        [hits] = archive.search(query, k=2)
        assert [(hit.window, hit.count) for hit in hits] == [(near[0], 1 + 199), (far[1], 1)]


def test_places_of_different_sources_stay_apart(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32) as writer:
        for number in range(2):
            source = writer.add_source(makers.content(number))
            writer.append(source, [makers.whole()], makers.unit_rows(1, 0))
    with Archive.open(tmp_path) as archive:
        [hits] = archive.search(makers.unit_rows(1, 0))
        assert [hit.count for hit in hits] == [1, 1]


def test_the_share_is_of_the_smaller_window() -> None:
    assert overlap_share(Window(0, 0, 256, 256), Window(192, 0, 256, 256)) == 0.25 < SAME_PLACE
    assert overlap_share(Window(0, 0, 768, 768), Window(100, 100, 256, 256)) == 1.0
    assert overlap_share(Window(0, 0, 10, 10), Window(10, 0, 10, 10)) == 0.0


def test_a_hit_says_everything_about_its_place(archive: Archive) -> None:
    [hits] = archive.search(makers.unit_rows(6, 5)[4], k=1)
    hit = hits[0]
    tile = makers.grid(5)[4]
    assert hit.source == "/data/005.tif"
    assert (hit.window, hit.bbox, hit.level, hit.footprint) == (tile.window, tile.bbox, 256, tile.footprint)
    assert hit.id == tile_id(makers.content(5).content_sha256, 256, tile.window)
    assert hit.datetime == "1970-01-01T00:00:00Z"
    row = hit.as_row()
    assert list(row) == ["rank", "score", "z", "id", "source", "window", "datetime", "bbox"]
    assert row["window"] == tile.window.as_list()
    feature = hit.as_feature()
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["geometry"]["coordinates"] == [[list(point) for point in tile.footprint[0]]]
    assert feature["bbox"] == row["bbox"]
    assert "/data/005.tif" in repr(hits)
    assert hits[:1] == (hit,)
    assert list(hits) == [hit]


def test_rows_of_other_segments_are_found_too(archive: Archive) -> None:
    last = archive.mapped_segments[-1]
    assert last.record.number > 4
    [hits] = archive.search(makers.unit_rows(6, 39)[5], k=1)
    assert archive.tile(hits[0].id).row == 239
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
