from __future__ import annotations

import hashlib
import json
import resource
import struct
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt.archive import Archive, ArchiveWriter, Where, tile_id
from lrsclip_rt.archive.footprints import rings_from_wkb, wkb_from_rings
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.archive.wkb_reading import place_from_wkb
from lrsclip_rt.errors import ArchiveError, ArchiveModelError, InputError
from lrsclip_rt.tiles import Window

pa = pytest.importorskip("pyarrow", reason="GeoParquet needs pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from lrsclip_rt.archive.geoparquet import importing as geoparquet_import  # noqa: E402
from lrsclip_rt.archive.geoparquet import reading as geoparquet_reading  # noqa: E402
from lrsclip_rt.archive.geoparquet.exporting import export_archive  # noqa: E402
from lrsclip_rt.archive.geoparquet.importing import import_geoparquet  # noqa: E402

DIM = makers.DIM
SQUARE = makers.square((10.0, 50.0, 10.1, 50.1))
WKB = wkb_from_rings((SQUARE,))
VECTORS = 3.0 * makers.unit_rows(4, 5)
UTM = {"name": "UTM", "id": {"authority": "EPSG", "code": 32632}}
WHEN = datetime(2024, 5, 31, 10, 20, tzinfo=timezone.utc)


def lists(values: Any = VECTORS) -> Any:
    return pa.array([list(map(float, row)) for row in values], pa.list_(pa.float32()))


def major_tom() -> dict[str, Any]:
    return {
        "unique_id": [f"u{n}" for n in range(4)],
        "embedding": lists(),
        "timestamp": ["20240531T102000", "2024-05-31T10:20:00Z", "20240531", None],
        "product_id": ["S2A_1", "S2A_1", "S2A_2", "S2A_2"],
        "grid_cell": ["922D_249L"] * 3 + ["1U_2R"],
        "grid_row_u": [1, 2, 3, 4],
        "grid_col_r": [1, 2, 3, 4],
        "geometry": [WKB, WKB, WKB, None],
        "centre_lat": [50.05, 50.05, 50.05, -10.0],
        "centre_lon": [10.05, 10.05, 10.05, 20.0],
        "utm_footprint": ["POLYGON ((0 0, 1 0, 1 1, 0 0))"] * 4,
        "utm_crs": ["EPSG:32632"] * 4,
        "pixel_bbox": [[0, 0, 384, 384], [342, 0, 726, 384], [0, 0, 384, 384], [0, 0, 384, 384]],
    }


def clay() -> dict[str, Any]:
    urls = [f"s3://bucket/chip_{n}.tif" for n in range(4)]
    return {"source_url": urls, "date": [date(2020, 1, n + 1) for n in range(4)], "embeddings": lists()} | {
        "geometry": [WKB] * 4
    }


def planet() -> dict[str, Any]:
    ends = [WHEN.replace(hour=20)] * 4
    return {"id": list("abcd"), "start_datetime": [WHEN] * 4, "end_datetime": ends, "embedding": lists()} | {
        "geometry": [WKB] * 4
    }


def earth_index() -> dict[str, Any]:
    return {"id": [11, 12, 13, 14], "geometry": [WKB] * 4, "embedding": lists()}


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "major-tom": major_tom,
    "clay-v0": clay,
    "planet": planet,
    "earth-index": earth_index,
}


def write(path: Path, columns: dict[str, Any], **metadata: str) -> Path:
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata or None), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_others_are_recognised_by_their_columns(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", KINDS[kind]())
    report = import_geoparquet(tmp_path / "a", path, model_id="SigLIP")
    assert (report.kind, report.rows_added, report.model.name) == (kind, 4, "SigLIP")
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    with Archive.open(tmp_path / "a") as archive:
        for row, vector in enumerate(unit):
            [hits] = archive.search(vector, k=4, merge=False)
            assert hits[0].score == pytest.approx(1.0, abs=1e-3)
            assert archive.tile(hits[0].id).row == row
        [inside] = archive.search(unit[0], where=Where(bbox=(10.05, 50.05, 10.06, 50.06)), merge=False)
        assert len(inside) == (3 if kind == "major-tom" else 4)
        assert not verify_archive(archive.path).damaged
    assert import_geoparquet(tmp_path / "a", path, model_id="SigLIP").rows_added == 0


def test_major_tom_rows_of_a_cell_are_tiles_of_one_source(tmp_path: Path) -> None:
    import_geoparquet(tmp_path / "a", write(tmp_path / "t.parquet", major_tom()))
    with Archive.open(tmp_path / "a") as archive:
        tiles = archive.catalog.tiles(range(4), archive.segments)
        assert [tiles[row].source for row in range(4)] == [1, 1, 2, 3]
        assert [tiles[row].tile.window.as_list() for row in range(2)] == [
            [0, 0, 384, 384],
            [342, 0, 384, 384],
        ]
        assert tiles[0].tile.time_us == tiles[1].tile.time_us == int(WHEN.timestamp() * 1e6)
        assert tiles[2].tile.time_us == int(datetime(2024, 5, 31, tzinfo=timezone.utc).timestamp() * 1e6)
        assert tiles[3].tile.time_us is None
        assert tiles[3].tile.bbox == (20.0, -10.0, 20.0, -10.0)
        assert archive.catalog.sources_by_metadata({"product_id": "S2A_2"}) == {2, 3}
        assert archive.model.name == "unnamed (major-tom)"


def test_hits_name_the_source_as_its_table_does(tmp_path: Path) -> None:
    import_geoparquet(tmp_path / "a", write(tmp_path / "t.parquet", clay()))
    import_geoparquet(tmp_path / "b", write(tmp_path / "e.parquet", earth_index()))
    with Archive.open(tmp_path / "a") as archive, Archive.open(tmp_path / "b") as nameless:
        [hits] = archive.search(VECTORS[2], k=1)
        assert hits[0].source == "s3://bucket/chip_2.tif"
        assert hits[0].datetime == "2020-01-03T00:00:00Z"
        [hits] = nameless.search(VECTORS[2], k=1)
        assert hits[0].source.startswith("sha256:")
        export_archive(archive, tmp_path / "x.parquet")
        import_geoparquet(tmp_path / "c", tmp_path / "x.parquet")
        with Archive.open(tmp_path / "c") as again:
            assert makers.contents(again) == makers.contents(archive)
    assert set(pq.read_table(tmp_path / "x.parquet")["source_href"].to_pylist()) == set(clay()["source_url"])


def test_the_same_row_has_the_same_id_in_every_archive(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", earth_index())
    shuffled = {key: pa.array(value).take([2, 0, 3, 1]) for key, value in earth_index().items()}
    import_geoparquet(tmp_path / "a", path)
    import_geoparquet(tmp_path / "b", write(tmp_path / "s.parquet", shuffled))
    with Archive.open(tmp_path / "a") as one, Archive.open(tmp_path / "b") as two:
        assert makers.contents(one) == makers.contents(two)


def test_ids_of_rows_without_a_file_follow_from_what_the_page_says(tmp_path: Path) -> None:
    start, end = int(WHEN.timestamp() * 1e6), int(WHEN.replace(hour=20).timestamp() * 1e6)
    cases: list[tuple[dict[str, Any], str, int, Window]] = [
        (earth_index(), "earth-index/[11]", 0, Window(0, 0, 1, 1)),
        (planet(), 'planet/["a"]', 0, Window(0, 0, 1, 1)),
        (short(planet(), "id"), f'planet/[{start}, {end}, "{WKB.hex()}"]', 0, Window(0, 0, 1, 1)),
        (major_tom(), 'major-tom/["S2A_1", "922D_249L"]', 384, Window(0, 0, 384, 384)),
        (short(major_tom(), "pixel_bbox"), 'major-tom/["u0"]', 0, Window(0, 0, 1, 1)),
    ]
    for number, (columns, text, level, window) in enumerate(cases):
        path = write(tmp_path / f"{number}.parquet", columns)
        import_geoparquet(tmp_path / str(number), path)
        sha256 = hashlib.sha256(f"lrsclip-import-1/{text}".encode()).hexdigest()
        with Archive.open(tmp_path / str(number)) as archive:
            assert archive.catalog.tiles([0], archive.segments)[0].id == tile_id(sha256, level, window)


def test_rows_of_an_unknown_model_need_a_word_before_they_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", earth_index())
    makers.write(tmp_path / "a")
    with pytest.raises(ArchiveModelError, match="pass --model-id abababababab"):
        import_geoparquet(tmp_path / "a", path)
    with pytest.raises(ArchiveModelError, match="said to be of SigLIP"):
        import_geoparquet(tmp_path / "a", path, model_id="SigLIP")
    for name in ("ab" * 6, "ab" * 32, "made"):
        report = import_geoparquet(tmp_path / "a", path, model_id=name)
        assert report.archive_rows == 22
    narrow = {**earth_index(), "embedding": lists(makers.unit_rows(4, dim=8))}
    with pytest.raises(ArchiveModelError, match="vectors of 8 numbers"):
        import_geoparquet(tmp_path / "a", write(tmp_path / "n.parquet", narrow), model_id="made")


def test_an_export_of_another_model_is_refused(tmp_path: Path) -> None:
    makers.write(tmp_path / "a")
    with Archive.open(tmp_path / "a") as archive:
        export_archive(archive, tmp_path / "t.parquet")
    import_geoparquet(tmp_path / "b", write(tmp_path / "o.parquet", earth_index()), model_id="other")
    with pytest.raises(ArchiveModelError, match="Import into another archive"):
        import_geoparquet(tmp_path / "b", tmp_path / "t.parquet")
    with pytest.raises(ArchiveModelError, match="not of other"):
        import_geoparquet(tmp_path / "c", tmp_path / "t.parquet", model_id="other")
    assert not (tmp_path / "c").exists()


def replaced(**columns: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**earth_index(), **columns}


def short(columns: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in columns.items() if key not in names}


def vectors_with(value: float) -> Any:
    rows = VECTORS.copy()
    rows[2, 3] = value
    return lists(rows)


def geometry(wkb: Any) -> Callable[[], dict[str, Any]]:
    return replaced(geometry=[WKB, WKB, WKB, wkb])


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a NaN": (replaced(embedding=vectors_with(np.nan)), "row 2 is not finite"),
    "an infinity": (replaced(embedding=vectors_with(np.inf)), "row 2 is not finite"),
    "a row of zeros": (replaced(embedding=lists([*VECTORS[:3], [0.0] * DIM])), "row 3 has length 0"),
    "a short row": (replaced(embedding=lists([*VECTORS[:3], [1.0]])), "row 3 has 1 numbers, expected 16"),
    "a missing row": (
        replaced(embedding=pa.array([[1.0] * DIM, None, [1.0] * DIM, [1.0] * DIM])),
        "a vector is missing",
    ),
    "a missing number": (
        replaced(embedding=pa.array([[None] + [1.0] * (DIM - 1)] * 4, pa.list_(pa.float32()))),
        "missing numbers",
    ),
    "texts for vectors": (replaced(embedding=["a", "b", "c", "d"]), "is string, expected lists"),
    "texts in vectors": (replaced(embedding=[["a"], ["b"], ["c"], ["d"]]), "expected lists of floating"),
    "nested vectors": (replaced(embedding=[[[1.0]]] * 4), "expected lists of floating"),
    "int8 without a scale": (
        replaced(embedding=pa.array([[1] * DIM] * 4, pa.list_(pa.int8()))),
        "expected lists of floating",
    ),
    "no vectors": (lambda: short(earth_index(), "embedding"), "no kind of embeddings is known"),
    "no ids": (lambda: short(earth_index(), "id"), "no kind of embeddings is known"),
    "no column": (lambda: {"x": [1]}, "no kind of embeddings is known"),
    "an id of floats": (replaced(id=[1.5, 2.5, 3.5, 4.5]), "row 0: its id is 1.5"),
    "an empty id": (replaced(id=[None, "b", "c", "d"]), "row 0: its id is None"),
    "text for geometry": (
        replaced(geometry=["POLYGON EMPTY"] * 4),
        "row 0: its geometry is str, expected WKB",
    ),
    "no WKB": (geometry(b"\x07abc"), "row 3: 07616263 is no WKB"),
    "an empty WKB": (geometry(b""), "row 3: nothing is no WKB"),
    "a cut WKB": (geometry(WKB[:-3]), "row 3: a geometry of 90 bytes counts 5 parts"),
    "a ring of 4 billion points": (
        geometry(struct.pack("<BIII", 1, 3, 1, 2**32 - 1)),
        "row 3: .* counts 4.29497e\\+09 parts",
    ),
    "a line": (geometry(struct.pack("<BII", 1, 2, 0)), "WKB type 2"),
    "metres for degrees": (
        geometry(wkb_from_rings((makers.square((400000.0, 5e6, 400100.0, 5.1e6)),))),
        "no longitude and latitude",
    ),
    "an open ring": (geometry(wkb_from_rings((SQUARE[:4],))), "the last equal to the first"),
    "another CRS": (geometry(struct.pack("<BIIdd", 1, 0x20000001, 3857, 1, 2)), "another CRS"),
    "a huge footprint": (geometry(b"\x01" + bytes(2**21)), "expected at most 1048576"),
    "times of no day": (lambda: {**clay(), "date": ["2020-13-01"] * 4}, "row 0: .* is no date or time"),
    "numbers for times": (lambda: {**clay(), "date": [1.0] * 4}, "the times are double"),
    "a time after the last": (
        lambda: {**planet(), "start_datetime": pa.array([2**62] * 4, pa.timestamp("us"))},
        "outside of the years",
    ),
    "a window of nothing": (
        lambda: {**major_tom(), "pixel_bbox": [[0, 0, 0, 0]] * 4},
        "row 0: a window needs at least one pixel",
    ),
    "a window of three": (lambda: {**major_tom(), "pixel_bbox": [[0, 0, 1]] * 4}, "row 0: pixel_bbox"),
    "a window of fractions": (
        lambda: {**major_tom(), "pixel_bbox": [[0.0, 0.0, 1.5, 1.0]] * 4},
        "row 0: pixel_bbox",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_cannot_be_meant_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    columns, message = HOSTILE[case]
    path = write(tmp_path / "t.parquet", columns())
    with pytest.raises(InputError, match=message) as refused:
        import_geoparquet(tmp_path / "a", path)
    assert str(path) in str(refused.value)
    assert not (tmp_path / "a").exists()


def own_file(tmp_path: Path) -> Path:
    makers.write(tmp_path / "own")
    with Archive.open(tmp_path / "own") as archive:
        export_archive(archive, tmp_path / "own.parquet")
    return tmp_path / "own.parquet"


OWN: dict[str, tuple[str, Any, str]] = {
    "a foreign id": ("id", "00" * 16, "but its source, level and window give"),
    "a hash that is none": ("content_sha256", "xyz", "64 lower-case hex"),
    "no hash": ("content_sha256", None, "content_sha256 is None"),
    "a negative level": ("level", -1, "level is -1"),
    "no JSON": ("source_reading", "{", "row 0: "),
    "a JSON list for an object": ("metadata", "[1]", "expected a JSON object"),
    "deep JSON": ("source_grids", "[" * 100_000, "row 0: "),
    "a location of one": ("source_locations", '["x"]', "row 0: "),
    "a box beyond the poles": ("bbox", {"xmin": 0.0, "ymin": -91.0, "xmax": 1.0, "ymax": 1.0}, "latitudes"),
    "a text for a number": ("nodata_fraction", "much", "nodata_fraction is 'much'"),
}


@pytest.mark.parametrize("case", OWN)
def test_an_export_that_was_tampered_with_is_refused(case: str, tmp_path: Path) -> None:
    name, value, message = OWN[case]
    table = pq.read_table(own_file(tmp_path))
    footer = pq.read_metadata(tmp_path / "own.parquet").metadata
    values = (
        [value, *table[name].to_pylist()[1:]] if name not in ("nodata_fraction",) else [value] * len(table)
    )
    kind = None if isinstance(value, str) and name == "nodata_fraction" else table.schema.field(name).type
    bad = table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))
    kept = {key: footer[key] for key in (b"geo", b"lrsclip")}
    pq.write_table(bad.replace_schema_metadata(kept), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=message):
        import_geoparquet(tmp_path / "a", tmp_path / "bad.parquet")
    assert not (tmp_path / "a").exists()


def test_footers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for number, (metadata, message) in enumerate(
        [
            ({"lrsclip": "{"}, "cannot be read"),
            ({"lrsclip": '{"format": 7}'}, "format 7"),
            ({"lrsclip": "[]"}, "format list"),
            ({"lrsclip": '{"format": 1}'}, "lacks the columns content_sha256"),
            ({"geo": "[]"}, "cannot be read"),
            ({"geo": '{"columns": {"geometry": {"encoding": "polygon"}}}'}, "geometries in polygon"),
            (
                {"geo": json.dumps({"columns": {"geometry": {"crs": UTM}}})},
                "is in UTM; reproject",
            ),
        ]
    ):
        path = write(tmp_path / f"{number}.parquet", earth_index(), **metadata)
        with pytest.raises(InputError, match=message):
            import_geoparquet(tmp_path / "a", path)
    table = pq.read_table(own_file(tmp_path))
    facts = {"format": 1, "model": {"identity": 1}}
    pq.write_table(table.replace_schema_metadata({"lrsclip": json.dumps(facts)}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="cannot be understood"):
        import_geoparquet(tmp_path / "a", tmp_path / "m.parquet")


def test_files_that_are_cut_or_flipped_give_one_named_error(tmp_path: Path) -> None:
    whole = own_file(tmp_path).read_bytes()
    rng = np.random.default_rng(11)
    target, refused = tmp_path / "t.parquet", 0
    cases = [whole[:cut] for cut in (0, 3, 4, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1)]
    for _ in range(60):
        content = bytearray(whole)
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        cases.append(bytes(content))
    for number, content in enumerate(cases):
        target.write_bytes(content)
        folder = tmp_path / f"a{number}"
        try:
            import_geoparquet(folder, target)
        except (InputError, ArchiveError) as error:
            said = str(error)
        else:
            said = ""
        if said:
            assert str(target) in said
            assert "\n" not in said
            assert not folder.exists()
            refused += 1
        else:
            # A bit of a number that is as good as before: what was taken in is sound all the same.
            assert not verify_archive(folder).damaged
    assert refused >= 30


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        import_geoparquet(tmp_path / "a", tmp_path / "none.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        import_geoparquet(tmp_path / "a", tmp_path)


def test_one_giant_row_group_is_read_in_small_pieces(tmp_path: Path) -> None:
    rows = 150_000
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(makers.unit_rows(1, dim=256)[0], rows)), 256)
    path = tmp_path / "giant.parquet"
    table = pa.table({"id": np.arange(rows), "embedding": vectors, "geometry": [WKB] * rows})
    pq.write_table(table, path, row_group_size=rows)
    del table, vectors
    assert pq.read_metadata(path).num_row_groups == 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with geoparquet_import.ParquetTable.open(path) as opened:
        assert sum(len(batch) for batch in opened.batches()) == rows
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150_000, f"{grown} KiB more for a group of 150 MB"


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers.write(tmp_path / "own", range(150))
    with Archive.open(tmp_path / "own") as archive:
        export_archive(archive, tmp_path / "own.parquet")
        expected = makers.contents(archive)
    monkeypatch.setattr(geoparquet_import, "COMMIT_ROWS", 1)
    monkeypatch.setattr(geoparquet_reading, "_BATCH_ROWS", 64)
    appended = ArchiveWriter.append
    calls = 0

    def failing(self: ArchiveWriter, *arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 80:
            raise OSError(28, "No space left on device")
        return appended(self, *arguments)

    monkeypatch.setattr(ArchiveWriter, "append", failing)
    with pytest.raises(OSError, match="No space left"):
        import_geoparquet(tmp_path / "a", tmp_path / "own.parquet")
    with Archive.open(tmp_path / "a") as archive:
        assert 0 < len(archive) < 900
        assert archive.catalog.rows("SELECT count(*) FROM grids") == [(0,)]
    import_geoparquet(tmp_path / "a", tmp_path / "own.parquet")
    with Archive.open(tmp_path / "a") as archive:
        assert makers.contents(archive) == expected
        assert archive.catalog.rows("SELECT count(*) FROM grids") == [(150,)]


@settings(max_examples=60, deadline=None)
@given(
    west=st.floats(-180, 179),
    south=st.floats(-90, 89),
    big=st.booleans(),
    height=st.booleans(),
    hole=st.booleans(),
)
def test_wkb_of_others_gives_the_same_outer_ring(
    west: float, south: float, big: bool, height: bool, hole: bool
) -> None:
    ring = makers.square((west, south, west + 1, south + 1))
    order = ">" if big else "<"
    rings = [ring, ring] if hole else [ring]
    content = struct.pack(f"{order}BII", 0 if big else 1, 3 + 1000 * height, len(rings))
    for points in rings:
        content += struct.pack(f"{order}I", len(points))
        for lon, lat in points:
            content += struct.pack(f"{order}{3 if height else 2}d", lon, lat, *([7.0] if height else []))
    bbox, found = place_from_wkb(content)
    assert found == (ring,)
    assert bbox == (west, south, west + 1, south + 1)
    assert rings_from_wkb(wkb_from_rings(found)) == found


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_for_a_geometry_give_a_place_or_one_error(content: bytes) -> None:
    try:
        bbox, rings = place_from_wkb(content)
    except InputError:
        return
    assert bbox is None or -180 <= bbox[0] <= 180
    assert all(ring[0] == ring[-1] for ring in rings)
