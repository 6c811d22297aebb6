from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner

from lrsclip_rt.archive import Archive, ArchiveWriter, Location, NewTile, Producer, tile_id
from lrsclip_rt.archive.hilbert import ORDER_BITS, hilbert_order
from lrsclip_rt.archive.models import model_from_bundle, text_bundle
from lrsclip_rt.archive.source_facts import facts_of_sources
from lrsclip_rt.bundle import BUILT_IN, Bundle
from lrsclip_rt.cli.archive import command
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import ArchiveModelError, InputError, OutputExistsError
from lrsclip_rt.tiles import Window

pq = pytest.importorskip("pyarrow.parquet", reason="GeoParquet needs pyarrow")

from lrsclip_rt.archive.geoparquet.exporting import export_archive  # noqa: E402
from lrsclip_rt.archive.geoparquet.importing import import_geoparquet  # noqa: E402
from lrsclip_rt.archive.geoparquet.writing import GeoRow, write_geoparquet  # noqa: E402
from lrsclip_rt.archive.stac.writing import write_stac  # noqa: E402

FIJI = (179.0, -18.0, -179.0, -17.0)

# What GeoParquet 1.1 asks of the footer, in our own words.
GEO_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["version", "primary_column", "columns"],
    "properties": {
        "version": {"const": "1.1.0"},
        "primary_column": {"type": "string", "minLength": 1},
        "columns": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["encoding", "geometry_types"],
                "properties": {
                    "encoding": {"enum": ["WKB", "point", "polygon", "multipolygon"]},
                    "geometry_types": {
                        "type": "array",
                        "uniqueItems": True,
                        "items": {
                            "pattern": "^(GeometryCollection|(Multi)?(Point|LineString|Polygon))( Z)?$"
                        },
                    },
                    "edges": {"enum": ["planar", "spherical"]},
                    "orientation": {"const": "counterclockwise"},
                    "bbox": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                    "covering": {
                        "type": "object",
                        "required": ["bbox"],
                        "properties": {
                            "bbox": {
                                "type": "object",
                                "required": ["xmin", "xmax", "ymin", "ymax"],
                                "additionalProperties": {"type": "array", "minItems": 2, "maxItems": 2},
                            }
                        },
                    },
                },
            },
        },
    },
}

DATE_TIME = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
LINKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["rel", "href"],
        "properties": {"rel": {"type": "string", "minLength": 1}, "href": {"type": "string", "minLength": 1}},
    },
}
ASSETS = {
    "type": "object",
    "required": ["embeddings"],
    "additionalProperties": {
        "type": "object",
        "required": ["href"],
        "properties": {"href": {"type": "string"}, "roles": {"type": "array", "items": {"type": "string"}}},
    },
}
STAC_CORE = {
    "stac_version": {"const": "1.1.0"},
    "stac_extensions": {"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "iri"}},
    "id": {"type": "string", "minLength": 1},
    "links": LINKS,
    "assets": ASSETS,
}
COLLECTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "id", "description", "license", "extent", "links", "emb:type", "emb:dimensions"],
    "properties": {
        **STAC_CORE,
        "type": {"const": "Collection"},
        "description": {"type": "string", "minLength": 1},
        "license": {"type": "string", "pattern": "^[\\w\\-\\.\\+]+$"},
        "extent": {
            "type": "object",
            "required": ["spatial", "temporal"],
            "properties": {
                "spatial": {
                    "required": ["bbox"],
                    "properties": {"bbox": {"minItems": 1, "items": {"minItems": 4, "maxItems": 4}}},
                },
                "temporal": {
                    "required": ["interval"],
                    "properties": {
                        "interval": {
                            "minItems": 1,
                            "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": DATE_TIME},
                        }
                    },
                },
            },
        },
        "emb:type": {"enum": ["pixel", "chip"]},
        "emb:dimensions": {"type": "integer", "minimum": 1},
        "data_type": {"enum": ["float16", "float32", "int8"]},
        "emb:chip_layout": {
            "type": "object",
            "required": ["layout_type"],
            "properties": {"layout_type": {"enum": ["regular_grid", "variable_grid", "named_grid"]}},
        },
    },
    "allOf": [
        {"properties": {"links": {"contains": {"properties": {"rel": {"const": rel}}}}}}
        for rel in ("emb:model", "emb:source-data")
    ],
}
ITEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "stac_version", "id", "geometry", "properties", "links", "assets"],
    "properties": {
        **STAC_CORE,
        "type": {"const": "Feature"},
        "geometry": {
            "oneOf": [
                {"type": "null"},
                {"type": "object", "required": ["type", "coordinates"]},
            ]
        },
        "properties": {
            "type": "object",
            "required": ["datetime"],
            "properties": {"datetime": DATE_TIME},
            "anyOf": [
                {"properties": {"datetime": {"type": "string"}}},
                {
                    "required": ["start_datetime", "end_datetime"],
                    "properties": {
                        "start_datetime": {**DATE_TIME, "type": "string"},
                        "end_datetime": {**DATE_TIME, "type": "string"},
                    },
                },
            ],
        },
    },
    "if": {"properties": {"geometry": {"type": "object"}}},
    "then": {"required": ["bbox"]},
}


def make_archive(folder: Path, sources: int = 12) -> Path:
    """Tiles of many places, one across the antimeridian, one without a place or time; two producers."""
    with ArchiveWriter(folder, makers.MODEL, makers.FP32, segment_rows=20, block_rows=8) as writer:
        for number in range(sources):
            source = makers.add(writer, number)
            writer.add_metadata(source, {"eo:cloud_cover": str(5 * number), "sensor": "näip"})
        source = writer.add_source(
            makers.content(900, crs="EPSG:32760", transform=(1.0, 0, 2, 0, -1, 3), gsd_m=0.5, time_us=77)
        )
        writer.add_location(source, Location("/data/scenes", "fiji.tif", 9))
        writer.add_location(source, Location("/data/copies", "fiji.tif", 10))
        west, south, east, north = FIJI
        rings = (makers.square((west, south, 180.0, north)), makers.square((-180.0, south, east, north)))
        tile = NewTile(256, Window(0, 0, 256, 256), FIJI, rings, 1_600_000_000_000_001, 0.25)
        writer.append(source, [tile], makers.unit_rows(1, 901))
    with ArchiveWriter(folder, makers.MODEL, Producer("int8-cpu", "onnxruntime", True)) as writer:
        source = writer.add_source(makers.content(902, reading={"bands": [3, 2, 1]}))
        writer.append(source, [makers.whole()], makers.unit_rows(1, 903))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with Archive.open(make_archive(tmp_path_factory.mktemp("export") / "archive")) as opened:
        yield opened


@pytest.fixture(scope="module")
def exported(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiles.parquet"
    written = export_archive(archive, path)
    assert (written.rows, written.rows_without_place) == (len(archive), 1)
    return path


def everything(archive: Archive) -> dict[str, object]:
    """All that an archive says of each tile, by its id."""
    tiles = archive.catalog.tiles(range(len(archive)), archive.segments)
    rows = np.concatenate([segment.f16 for segment in archive.mapped_segments])
    facts = facts_of_sources(archive.catalog, (tile.source for tile in tiles.values()))
    found = {}
    for row, record in tiles.items():
        producer = next(s.producer for s in reversed(archive.segments) if s.base <= row)
        found[record.id] = (record.tile, facts[record.source], rows[row].tobytes(), producer)
    return found


def test_a_round_trip_gives_the_same_archive_to_the_last_bit(
    archive: Archive, exported: Path, tmp_path: Path
) -> None:
    report = import_geoparquet(tmp_path / "again", exported)
    assert (report.kind, report.rows_added, report.archive_rows) == ("lrsclip", len(archive), len(archive))
    with Archive.open(tmp_path / "again") as again:
        assert again.model == archive.model
        assert everything(again) == everything(archive)
    second = import_geoparquet(tmp_path / "again", exported)
    assert (second.rows_added, second.archive_rows) == (0, len(archive))


def test_float32_holds_the_same_numbers_and_int8_those_of_the_segments(
    archive: Archive, tmp_path: Path
) -> None:
    export_archive(archive, tmp_path / "f32.parquet", vectors="float32")
    import_geoparquet(tmp_path / "f32", tmp_path / "f32.parquet")
    with Archive.open(tmp_path / "f32") as again:
        assert makers.contents(again) == makers.contents(archive)
    export_archive(archive, tmp_path / "i8.parquet", vectors="int8")
    table = pq.read_table(tmp_path / "i8.parquet")
    codes = {
        segment.i8[row].tobytes() for segment in archive.mapped_segments for row in range(len(segment.i8))
    }
    assert {np.array(row, np.int8).tobytes() for row in table["embedding"].to_pylist()} == codes
    assert import_geoparquet(tmp_path / "i8", tmp_path / "i8.parquet").lossy
    with Archive.open(tmp_path / "i8") as near:
        held, true = makers.contents(near), makers.contents(archive)
        cosines = [
            np.frombuffer(held[key], np.float16).astype(float) @ np.frombuffer(true[key], np.float16)
            for key in true
        ]
        assert min(cosines) > 0.999


def test_the_footer_is_geoparquet_1_1(exported: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    metadata = pq.read_metadata(exported).metadata
    geo = json.loads(metadata[b"geo"])
    jsonschema.Draft7Validator(GEO_SCHEMA).validate(geo)
    column = geo["columns"]["geometry"]
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["bbox"] == [-180.0, -18.0, 180.0, 0.0]
    facts = json.loads(metadata[b"lrsclip"])
    assert facts["model"]["identity"] == makers.MODEL.identity
    assert facts["rows"] == pq.read_metadata(exported).num_rows
    group = pq.read_metadata(exported).row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    # Pushing a box down needs the ranges of the corners; those of the vectors would only be ballast.
    assert all(chunks[f"bbox.{name}"].statistics.has_min_max for name in ("xmin", "ymin", "xmax", "ymax"))
    assert not chunks["embedding.list.element"].is_stats_set


def test_geopandas_reads_it(archive: Archive, exported: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(exported)
    assert len(frame) == len(archive)
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert int(frame.geometry.isna().sum()) == 1
    assert frame.geometry.dropna().is_valid.all()
    assert frame["datetime"].dt.tz is not None
    by_id = frame.set_index("id")
    for identifier, (tile, facts, vector, _) in everything(archive).items():  # type: ignore[misc]
        row = by_id.loc[identifier]
        assert row["embedding"].astype(np.float16).tobytes() == vector
        corners = [tile.window.col_off, tile.window.row_off]
        assert list(row["pixel_bbox"])[:2] == corners
        assert row["source_href"] == facts.href
    inside = geopandas.read_parquet(exported, bbox=(3.0001, -0.001, 3.0002, 0.0))
    assert set(inside["source_href"]) == {str(Path("/data/scenes/003.tif"))}
    across = geopandas.read_parquet(exported, bbox=(-179.5, -17.6, -179.4, -17.5))
    assert list(across["source_href"]) == [str(Path("/data/scenes/fiji.tif"))]


def test_duckdb_reads_its_columns(archive: Archive, exported: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        query = (
            "SELECT count(*), count(geometry), min(bbox.xmin), max(bbox.ymax), max(datetime)::VARCHAR,"
            " list_distinct(list(len(embedding))), sum(embedding[1]), max(cloud_percent)"
            " FROM read_parquet(?)"
        )
        count, placed, west, north, last, dims, first, cloud = connection.execute(
            query, [str(exported)]
        ).fetchone()
    assert (count, placed, west, north, dims) == (len(archive), len(archive) - 1, -180.0, 0.0, [makers.DIM])
    assert last.startswith("2020-09-13")
    rows = np.concatenate([segment.f16 for segment in archive.mapped_segments])
    assert first == pytest.approx(float(rows[:, 0].astype(np.float64).sum()), abs=1e-4)
    assert cloud == 55.0


def test_rows_lie_along_the_hilbert_curve_and_groups_are_bounded(archive: Archive, tmp_path: Path) -> None:
    written = export_archive(archive, tmp_path / "small.parquet", row_group_bytes=1)
    assert written.row_groups == 1  # a group is never smaller than what is converted at once
    order = pq.read_table(tmp_path / "small.parquet", columns=["id"])["id"].to_pylist()
    boxes = np.concatenate([segment.box for segment in archive.mapped_segments])
    tiles = archive.catalog.tiles(range(len(archive)), archive.segments)
    assert order == [tiles[int(row)].id for row in hilbert_order(boxes)]
    rows = [GeoRow(f"{n:032x}", "x", Window(0, 0, 1, 1), 0) for n in range(10_000)]
    many = write_geoparquet(tmp_path / "many.parquet", rows, model_id="m", vectors=None, row_group_bytes=1)
    groups = pq.read_metadata(tmp_path / "many.parquet")
    assert many.row_groups == groups.num_row_groups == 3
    assert groups.row_group(0).num_rows == 4096


def test_the_hilbert_order_equals_its_slow_twin() -> None:
    rng = np.random.default_rng(3)
    lon, lat = rng.uniform(-179, 179, 300), rng.uniform(-89, 89, 300)
    boxes = np.column_stack([lon - 0.5, lat - 0.5, lon + 0.5, lat + 0.5])
    cells = [
        (int((x + 180) / 360 * 2**ORDER_BITS), int((y + 90) / 180 * 2**ORDER_BITS))
        for x, y in zip(lon, lat, strict=True)
    ]
    slow = sorted(range(300), key=lambda row: (hilbert_distance(*cells[row]), row))
    assert hilbert_order(boxes).tolist() == slow
    # Neighbours along the curve are neighbours on the map.
    assert {
        hilbert_distance(0, 0),
        hilbert_distance(1, 0),
        hilbert_distance(0, 1),
        hilbert_distance(1, 1),
    } == {
        0,
        1,
        2,
        3,
    }


def hilbert_distance(col: int, row: int) -> int:
    """The textbook's way: from the largest quadrant down, turning the curve in each."""
    distance, side = 0, 2**ORDER_BITS
    half = side // 2
    while half:
        right, upper = int(bool(col & half)), int(bool(row & half))
        distance += half * half * ((3 * right) ^ upper)
        if not upper:
            if right:
                col, row = side - 1 - col, side - 1 - row
            col, row = row, col
        half //= 2
    return distance


def test_search_results_can_be_written_with_columns_of_their_own(tmp_path: Path) -> None:
    rows = [
        GeoRow(
            "aa", "/x.tif", Window(0, 0, 8, 8), 0, bbox=(1.0, 2.0, 1.0, 2.0), extra={"score": 0.5, "rank": 1}
        ),
        GeoRow("bb", "/y.tif", Window(4, 0, 8, 8), 256, bbox=(1.0, 2.0, 3.0, 4.0), extra={"score": 0.25}),
    ]
    columns: dict[str, Any] = {"score": "float64", "rank": "int32"}
    write_geoparquet(tmp_path / "hits.parquet", iter(rows), model_id="m", vectors=None, extra=columns)
    table = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [(row["id"], row["score"], row["rank"]) for row in table] == [("aa", 0.5, 1), ("bb", 0.25, None)]
    geo = json.loads(pq.read_metadata(tmp_path / "hits.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Point", "Polygon"]
    with pytest.raises(InputError, match="search results are no archive"):
        import_geoparquet(tmp_path / "a", tmp_path / "hits.parquet")
    with pytest.raises(OutputExistsError):
        write_geoparquet(tmp_path / "hits.parquet", rows, model_id="m", vectors=None)
    with pytest.raises(InputError, match="row aa has no vector"):
        write_geoparquet(tmp_path / "new.parquet", rows, model_id="m", dim=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits.parquet"]


def test_an_empty_archive_is_an_empty_file_and_comes_back(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "empty", makers.MODEL, makers.FP32):
        pass
    with Archive.open(tmp_path / "empty") as archive:
        written = export_archive(archive, tmp_path / "empty.parquet")
        assert (written.rows, written.extent) == (0, None)
    assert import_geoparquet(tmp_path / "again", tmp_path / "empty.parquet").archive_rows == 0


def test_deleted_rows_are_not_written(tmp_path: Path) -> None:
    folder = makers.write(tmp_path / "a", range(4))
    with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
        writer.delete_source(2)
    with Archive.open(folder) as archive:
        assert export_archive(archive, tmp_path / "t.parquet").rows == 18
    import_geoparquet(tmp_path / "again", tmp_path / "t.parquet")
    with Archive.open(tmp_path / "again") as again:
        expected = makers.expected_contents(range(4))
        gone = makers.expected_contents(range(1, 2))
        assert makers.contents(again) == {key: expected[key] for key in expected if key not in gone}


def test_a_new_archive_keeps_the_text_tower_of_the_bundle(made_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(made_bundle)
    model = model_from_bundle(bundle)
    with ArchiveWriter(tmp_path / "a", model, makers.FP32, bundle=bundle) as writer:
        source = writer.add_source(makers.content(1))
        writer.append(source, makers.grid(1), makers.unit_rows(6, 1, model.dim))
    with Archive.open(tmp_path / "a") as archive:
        export_archive(archive, tmp_path / "t.parquet")
    hashes = json.loads(pq.read_metadata(tmp_path / "t.parquet").metadata[b"lrsclip"])["text_tower"]
    kept = Bundle.open(tmp_path / "a" / "model").files
    assert hashes == {name: record.sha256 for name, record in kept.items()}
    asked = ["import", str(tmp_path / "t.parquet"), "-a", str(tmp_path / "b"), "-b", str(made_bundle)]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 0, done.output
    with Archive.open(tmp_path / "b") as archive:
        words = load(text_bundle(archive)).embed_texts(["a harbour"])
        assert len(archive.search(words)[0]) > 0
    other = CliRunner().invoke(command, [*asked[:-2], "-b", str(BUILT_IN)])
    assert isinstance(other.exception, ArchiveModelError)


def test_a_file_that_cannot_be_written_leaves_nothing(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        export_archive(archive, tmp_path / "no" / "such" / "folder.parquet")
    assert list(tmp_path.iterdir()) == []


def test_stac_records_describe_the_file(archive: Archive, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    written = export_archive(archive, tmp_path / "tiles.parquet")
    collection_path, item_path = write_stac(archive, written, vectors="float16")
    collection, item = json.loads(collection_path.read_text()), json.loads(item_path.read_text())
    jsonschema.Draft7Validator(COLLECTION_SCHEMA).validate(collection)
    jsonschema.Draft7Validator(ITEM_SCHEMA).validate(item)
    assert collection["emb:dimensions"] == makers.DIM
    assert collection["emb:chip_layout"] == {
        "layout_type": "regular_grid",
        "chip_size": [256, 256],
        "stride": [192, 192],
    }
    for record in (collection, item):
        assert (tmp_path / record["assets"]["embeddings"]["href"]).is_file()
    for link in item["links"]:
        if link["rel"] in ("root", "parent", "collection"):
            assert json.loads((tmp_path / link["href"]).read_text())["id"] == item["collection"]
    assert item["properties"]["start_datetime"] == "1970-01-01T00:00:00Z"
    assert item["properties"]["end_datetime"] == "2020-09-13T12:26:40.000001Z"
    with pytest.raises(OutputExistsError):
        write_stac(archive, written, vectors="float16")
    broken = {**collection, "emb:type": "tile"}
    assert not jsonschema.Draft7Validator(COLLECTION_SCHEMA).is_valid(broken)


def test_stac_of_an_archive_without_place_and_time_is_valid_and_says_so(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with ArchiveWriter(tmp_path / "a", makers.MODEL, makers.FP32) as writer:
        writer.append(writer.add_source(makers.content(1)), [makers.whole()], makers.unit_rows(1))
    with Archive.open(tmp_path / "a") as archive:
        written = export_archive(archive, tmp_path / "t.parquet", vectors="int8")
        collection_path, item_path = write_stac(archive, written, vectors="int8")
    collection, item = json.loads(collection_path.read_text()), json.loads(item_path.read_text())
    jsonschema.Draft7Validator(COLLECTION_SCHEMA).validate(collection)
    jsonschema.Draft7Validator(ITEM_SCHEMA).validate(item)
    assert "no place" in collection["description"]
    assert item["geometry"] is None
    assert item["properties"]["emb:quantization"]["method"] == "linear"


def test_the_commands_export_and_import(archive: Archive, tmp_path: Path) -> None:
    run = CliRunner()
    target = tmp_path / "tiles.parquet"
    done = run.invoke(command, ["export", str(archive.path), "-o", str(target), "--stac", "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert (row["rows"], row["rows_without_place"]) == (len(archive), 1)
    assert sorted(Path(path).name for path in row["stac"]) == ["tiles.collection.json", "tiles.item.json"]
    again = run.invoke(command, ["export", str(archive.path), "-o", str(target)])
    assert isinstance(again.exception, OutputExistsError)
    new = run.invoke(command, ["import", str(target), "-a", str(tmp_path / "again"), "--json"])
    assert new.exit_code == 0, new.output
    assert json.loads(new.stdout)["rows_added"] == len(archive)
    assert "keeps no text tower" in new.stderr


def test_ids_in_a_file_follow_from_its_own_columns(exported: Path) -> None:
    for row in pq.read_table(exported).to_pylist():
        left, top, right, bottom = row["pixel_bbox"]
        window = Window(left, top, right - left, bottom - top)
        assert row["id"] == tile_id(row["content_sha256"], row["level"], window)


def test_a_footprint_that_is_missing_is_replaced_by_the_box(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    row = GeoRow("aa", "x", Window(0, 0, 1, 1), 0, bbox=FIJI)
    write_geoparquet(
        tmp_path / "a.parquet", [row, replace(row, id="bb", bbox=None)], model_id="m", vectors=None
    )
    shapes = geopandas.read_parquet(tmp_path / "a.parquet").geometry
    assert shapes[0].geom_type == "MultiPolygon"
    assert shapes[0].area == pytest.approx(2.0)
    assert shapes[1] is None
