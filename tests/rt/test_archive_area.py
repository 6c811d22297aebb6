"""Areas of interest: which footprints they share a point with, and the files they come from."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt.archive import Archive, ArchiveWriter, Location, NewTile, Where
from lrsclip_rt.archive.areas.area import Area
from lrsclip_rt.archive.areas.files import area_from_file, area_from_geojson
from lrsclip_rt.archive.footprints import Bbox, Ring, rings_from_bbox
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

SQUARE: Ring = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0), (0.0, 0.0))
HOLE: Ring = ((1.0, 1.0), (1.0, 3.0), (3.0, 3.0), (3.0, 1.0), (1.0, 1.0))


def star(generator: np.random.Generator, points: int, centre: tuple[float, float], radius: float) -> Ring:
    """A ring that does not cross itself: rising angles around a centre, radii at random.

    One angle a sector, of four or more, so that none is half a turn or more behind the one before.
    """
    angles = (np.arange(points) + generator.uniform(0, 1, points)) * (2 * np.pi / points)
    radii = radius * generator.uniform(0.2, 1.0, points)
    ring = [
        (centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)
    ]
    return tuple((float(x), float(y)) for x, y in [*ring, ring[0]])


def geojson(*rings: Any, **members: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[list(point) for point in ring] for ring in rings], **members}


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((0.2, 0.2, 0.8, 0.8), True),
        ((1.5, 1.5, 2.5, 2.5), False),
        ((1.0, 1.5, 1.2, 2.5), True),
        ((0.5, 0.5, 3.5, 3.5), True),
        ((-1.0, -1.0, 5.0, 5.0), True),
        ((4.0, 4.0, 5.0, 5.0), True),
        ((4.1, 0.0, 5.0, 5.0), False),
        ((-2.0, 1.0, -1.0, 2.0), False),
    ],
)
def test_a_hole_is_outside_and_every_edge_is_inside(bbox: Bbox, expected: bool) -> None:
    area = Area(((SQUARE, HOLE),))
    assert area.meets(rings_from_bbox(bbox)) == expected
    if expected:
        assert area.may_meet(np.array([bbox]))[0]


def test_a_polygon_in_a_hole_of_a_footprint_sized_ring_counts() -> None:
    island = ((1.9, 1.9), (2.1, 1.9), (2.1, 2.1), (1.9, 2.1), (1.9, 1.9))
    area = Area(((SQUARE, HOLE), (island,)))
    assert area.meets(rings_from_bbox((1.8, 1.8, 2.2, 2.2)))
    assert not area.meets(rings_from_bbox((1.2, 1.2, 1.4, 1.4)))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_meeting_is_what_shapely_calls_intersecting(seed: int) -> None:
    geometry = pytest.importorskip("shapely.geometry", reason="shapely judges")
    generator = np.random.default_rng(seed)
    outer = star(generator, int(generator.integers(8, 40)), (0.0, 0.0), 3.0)
    whole = geometry.Polygon(outer)
    hole = star(generator, 6, (0.0, 0.0), 0.4)
    rings = (outer, hole) if whole.contains_properly(geometry.Polygon(hole)) else (outer,)
    if not geometry.Polygon(rings[0], rings[1:]).is_valid:
        return
    area = Area((rings,))
    truth = geometry.Polygon(rings[0], rings[1:])
    for _ in range(20):
        tile = star(generator, int(generator.integers(4, 8)), tuple(generator.uniform(-3, 3, 2)), 0.8)
        expected = truth.intersects(geometry.Polygon(tile))
        assert area.meets((tile,)) == expected
        west, south, east, north = geometry.Polygon(tile).bounds
        if expected:
            assert area.may_meet(np.array([[west, south, east, north]]))[0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_point_like_tile_is_in_the_area_as_the_winding_says(seed: int) -> None:
    """The slow twin: the sum of the angles under which a point sees the edges is 0 outside."""
    generator = np.random.default_rng(seed)
    ring = star(generator, 15, (0.0, 0.0), 3.0)
    points = np.array(ring)
    area = Area(((ring,),))
    for x, y in generator.uniform(-3, 3, (20, 2)):
        around = np.arctan2(points[:, 1] - y, points[:, 0] - x)
        turns = np.diff(around)
        winding = ((turns + np.pi) % (2 * np.pi) - np.pi).sum() / (2 * np.pi)
        tiny = rings_from_bbox((x - 1e-9, y - 1e-9, x + 1e-9, y + 1e-9))
        assert area.meets(tiny) == (abs(winding) > 0.5)


def test_boxes_that_are_ruled_out_certainly_do_not_meet_and_few_others_remain() -> None:
    generator = np.random.default_rng(3)
    area = Area(((star(generator, 60, (10.0, 50.0), 5.0),),))
    corners = generator.uniform((4, 44), (16, 56), (4000, 2))
    boxes = np.hstack([corners, corners + 0.05])
    maybe = area.may_meet(boxes)
    exact = np.array([area.meets(rings_from_bbox(tuple(box))) for box in boxes.tolist()])
    assert not (exact & ~maybe).any()
    assert (maybe & ~exact).mean() < 0.05
    assert exact.any()
    assert not area.may_meet(np.array([[np.nan] * 4]))[0]


def test_boxes_across_the_antimeridian_are_tested_on_both_sides() -> None:
    fiji = Area(
        (
            (rings_from_bbox((178.0, -20.0, 180.0, -15.0))[0],),
            (rings_from_bbox((-180.0, -20.0, -178.0, -15.0))[0],),
        )
    )
    boxes = np.array([[179.5, -18, -179.5, -17], [-178.5, -18, -177, -17], [176, -18, 177, -17]], float)
    assert fiji.may_meet(boxes).tolist() == [True, True, False]
    assert fiji.meets(rings_from_bbox((179.5, -18.0, -179.5, -17.0)))


@pytest.mark.parametrize(
    ("rings", "message"),
    [
        ([((0.0, 0.0), (2.0, 2.0), (2.0, 0.0), (0.0, 2.0), (0.0, 0.0))], "cross themselves or each other"),
        ([SQUARE[:-1]], "unclosed ring"),
        ([SQUARE[:2] + SQUARE[:1]], "expected 4 or more"),
        ([((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (0.0, 0.0))], "without an area"),
        ([tuple((x, y + 100.0) for x, y in SQUARE)], "no longitude and latitude"),
        ([tuple((x * 1e5, y * 1e5) for x, y in SQUARE)], "Another CRS fits into a GeoPackage"),
        ([((0.0, 0.0), (float("nan"), 0.0), (2.0, 2.0), (0.0, 0.0))], "two finite numbers"),
        ([SQUARE, tuple((x + 2.0, y) for x, y in HOLE)], "cross themselves or each other"),
        ([], "holds no polygon"),
    ],
)
def test_a_malformed_polygon_is_refused_by_what_is_wrong(rings: list[Ring], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Area((tuple(rings),) if rings else ())


def test_too_many_points_are_refused_before_anything_is_computed() -> None:
    angles = np.linspace(0, 2 * np.pi, 100_002)
    ring = tuple(zip(np.cos(angles).tolist(), np.sin(angles).tolist(), strict=True))
    with pytest.raises(InputError, match="simplify it"):
        Area(((ring,),))


def test_geojson_of_every_kind_is_read() -> None:
    plain = geojson(SQUARE, HOLE)
    feature = {"type": "Feature", "properties": None, "geometry": plain}
    several = {
        "type": "MultiPolygon",
        "coordinates": [plain["coordinates"], [[[9, 9, 1], [10, 9, 1], [10, 10, 1], [9, 9, 1]]]],
    }
    collection = {"type": "FeatureCollection", "features": [feature, {"type": "Feature", "geometry": None}]}
    nested = {"type": "GeometryCollection", "geometries": [plain, several]}
    assert [
        len(area_from_geojson(part).polygons) for part in (plain, feature, several, collection, nested)
    ] == [
        1,
        1,
        2,
        1,
        3,
    ]
    assert area_from_geojson(plain).polygons[0] == (SQUARE, HOLE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no valid JSON"),
        ("[1, 2]", "a list, expected a GeoJSON object"),
        ('{"type": "Point", "coordinates": [0, 0]}', "'Point', expected Polygon"),
        ('{"type": "FeatureCollection", "features": 3}', "has no list 'features'"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        (
            '{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 1], [0, 0]]]}',
            "NaN is not a JSON number",
        ),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]}', r"must be \[longitude"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, true], [1, 1], [0, 0]]]}', r"must be \[longitude"),
        ('{"type": "Polygon", "coordinates": [0, 0]}', "list of rings"),
        ('{"type": "Polygon", "coordinates": [[0, 0]]}', r"must be \[longitude"),
        (
            '{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [1, 1], [0, 0]]]}',
            r"must be \[longitude",
        ),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_other_json_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        area_from_file(path)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        area_from_file(tmp_path / "missing.geojson")
    (tmp_path / "area.shp").write_bytes(b"\x00\x00\x27\x0a\xff\xfe")
    with pytest.raises(InputError, match="neither GeoJSON in UTF-8 nor a GeoPackage"):
        area_from_file(tmp_path / "area.shp")
    (tmp_path / "broken.gpkg").write_bytes(b"SQLite format 3\x00" + b"\x01" * 200)
    with pytest.raises(InputError, match="no readable GeoPackage"):
        area_from_file(tmp_path / "broken.gpkg")


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326", "urn:ogc:def:crs:EPSG::4326"])
def test_a_legacy_crs_of_wgs84_changes_nothing(name: str) -> None:
    crs = {"type": "name", "properties": {"name": name}}
    assert area_from_geojson(geojson(SQUARE, crs=crs)).polygons[0] == (SQUARE,)


def test_a_legacy_crs_is_honoured_or_refused_by_name() -> None:
    warp = pytest.importorskip("rasterio.warp")
    ring = [
        (500_000.0, 5_700_000.0),
        (510_000.0, 5_700_000.0),
        (510_000.0, 5_720_000.0),
        (500_000.0, 5_700_000.0),
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    area = area_from_geojson(geojson(ring, crs=crs))
    lon, lat = warp.transform("EPSG:32631", "EPSG:4326", *zip(*ring, strict=True))
    found = np.array(area.polygons[0][0])
    for corner in zip(lon, lat, strict=True):
        assert np.hypot(*(found - corner).T).min() < 1e-9
    assert len(found) > 100, "edges are densified"
    for wrong, message in [
        ({"type": "link", "properties": {"href": "x"}}, "expected one by name"),
        ({"type": "name", "properties": {"name": "ESRI:54009"}}, "expected OGC:CRS84 or EPSG:n"),
        ({"type": "name", "properties": {"name": "EPSG:999999"}}, "cannot be turned into longitude"),
        ("EPSG:4326", "expected one by name"),
    ]:
        with pytest.raises(InputError, match=message):
            area_from_geojson(geojson(ring, crs=wrong))


def gpkg_blob(wkb: bytes, flags: int = 1, envelope: bytes = b"") -> bytes:
    return b"GP\x00" + bytes([flags]) + struct.pack("<i", 32631) + envelope + wkb


def polygon_wkb(rings: Sequence[Sequence[tuple[float, ...]]], code: int = 3) -> bytes:
    body = struct.pack("<BII", 1, code, len(rings))
    for ring in rings:
        body += struct.pack("<I", len(ring)) + b"".join(struct.pack(f"<{len(p)}d", *p) for p in ring)
    return body


def write_gpkg(
    path: Path, blobs: list[bytes | None], *, organization: str = "EPSG", code: int = 32631
) -> Path:
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE gpkg_spatial_ref_sys"
            " (srs_name, srs_id INTEGER, organization, organization_coordsys_id, definition);"
            " CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id);"
            ' CREATE TABLE "an ""area""" (fid INTEGER PRIMARY KEY, geom BLOB);'
        )
        database.execute(
            "INSERT INTO gpkg_spatial_ref_sys VALUES ('x', 1, ?, ?, 'undefined')", (organization, code)
        )
        database.execute("INSERT INTO gpkg_geometry_columns VALUES ('an \"area\"', 'geom', 1)")
        database.executemany('INSERT INTO "an ""area""" (geom) VALUES (?)', [(blob,) for blob in blobs])
    database.close()
    return path


def test_a_geopackage_is_reprojected(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp")
    ring = [
        (500_000.0, 5_700_000.0),
        (510_000.0, 5_700_000.0),
        (510_000.0, 5_720_000.0),
        (500_000.0, 5_700_000.0),
    ]
    high = [[(*point, 7.0) for point in ring]]
    several = struct.pack("<BII", 1, 6, 1) + polygon_wkb([ring])
    blobs = [
        gpkg_blob(polygon_wkb([ring])),
        gpkg_blob(polygon_wkb(high, 1003), 3, struct.pack("<4d", 0, 0, 0, 0)),
        gpkg_blob(several),
        gpkg_blob(b"", 0x11),
        None,
    ]
    area = area_from_file(write_gpkg(tmp_path / "a.gpkg", blobs))
    assert len(area.polygons) == 3
    lon, lat = warp.transform("EPSG:32631", "EPSG:4326", [510_000.0], [5_720_000.0])
    for polygon in area.polygons:
        assert np.hypot(*(np.array(polygon[0]) - (lon[0], lat[0])).T).min() < 1e-9


def test_a_geopackage_of_gdal_is_read_and_split_at_the_antimeridian(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas writes the GeoPackage")
    pytest.importorskip("pyogrio", reason="pyogrio writes the GeoPackage")
    box = pytest.importorskip("shapely.geometry").box
    path = tmp_path / "fiji.gpkg"
    frame = geopandas.GeoDataFrame(
        geometry=[box(-100_000.0, 7_990_000.0, 100_000.0, 8_090_000.0)], crs="EPSG:3832"
    )
    frame = frame.set_geometry(frame.translate(xoff=30 * 111_319.49))  # its meridian is 150 degrees east
    frame.to_file(path, driver="GPKG")
    area = area_from_file(path)
    assert len(area.polygons) == 2
    west, _, east, _ = area.bounds
    assert (west, east) == (-180.0, 180.0)
    assert area.meets(rings_from_bbox((179.5, 58.4, 179.6, 58.5)))
    assert area.meets(rings_from_bbox((-179.6, 58.4, -179.5, 58.5)))
    assert not area.meets(rings_from_bbox((0.0, 58.4, 1.0, 58.5)))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"XX\x00\x01" + bytes(20), "expected GP"),
        (gpkg_blob(polygon_wkb([], 2)), "WKB type 2, expected polygons"),
        (gpkg_blob(polygon_wkb([[(0.0, 0.0)] * 4])[:-8]), "cut off"),
        (gpkg_blob(struct.pack("<BIII", 1, 3, 1, 2**31)), "cut off"),
        (gpkg_blob(b""), "cut off"),
        ("text", "a geometry that is a str, expected a BLOB"),
    ],
)
def test_a_hostile_geopackage_is_refused(tmp_path: Path, blob: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        area_from_file(write_gpkg(tmp_path / "a.gpkg", [blob]))


def test_a_geopackage_needs_a_crs_and_one_layer(tmp_path: Path) -> None:
    blob = gpkg_blob(polygon_wkb([[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]]))
    with pytest.raises(InputError, match="does not say its CRS"):
        area_from_file(write_gpkg(tmp_path / "a.gpkg", [blob], organization="NONE"))
    path = write_gpkg(tmp_path / "b.gpkg", [blob], code=4326)
    assert area_from_file(path).bounds == (0.0, 0.0, 1.0, 1.0)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO gpkg_geometry_columns VALUES ('more', 'geom', 1)")
    database.close()
    with pytest.raises(InputError, match="2 layers of features"):
        area_from_file(path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """A grid of 20 x 20 tiles of 0.2 degrees over (0, 0, 4, 4), and one row without a place."""
    folder = tmp_path_factory.mktemp("area") / "archive"
    with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
        source = writer.add_source(makers.content(0))
        writer.add_location(source, Location("/data", "grid.tif"))
        tiles = []
        for number in range(400):
            row, col = divmod(number, 20)
            bbox = (0.2 * col + 0.01, 0.2 * row + 0.01, 0.2 * col + 0.19, 0.2 * row + 0.19)
            window = Window(col * 10, row * 10, 10, 10)
            tiles.append(NewTile(10, window, bbox, rings_from_bbox(bbox)))
        tiles.append(NewTile(10, Window(300, 300, 10, 10)))
        writer.append(source, tiles, makers.unit_rows(401))
    with Archive.open(folder) as opened:
        yield opened


def test_a_search_in_an_area_finds_exactly_what_meets_it(archive: Archive) -> None:
    bent: Ring = ((0.1, 0.1), (3.9, 0.1), (3.9, 3.9), (3.5, 3.9), (3.5, 0.5), (0.1, 0.5), (0.1, 0.1))
    for area in (Area(((SQUARE, HOLE),)), Area(((bent,),))):
        [hits] = archive.search(makers.unit_rows(1, 7), 1000, Where(aoi=area), merge=False)
        everything = archive.search(makers.unit_rows(1, 7), 1000, merge=False)[0]
        expected = [hit.id for hit in everything if hit.footprint and area.meets(hit.footprint)]
        assert [hit.id for hit in hits] == expected
        assert 0 < len(expected) < 400
        assert hits.without_place == 1
    both = Where(aoi=Area(((SQUARE, HOLE),)), bbox=(0.0, 0.0, 0.5, 0.5))
    assert 0 < len(archive.search(makers.unit_rows(1), 1000, both, merge=False)[0]) <= 9


def test_k_beyond_the_archive_gives_all_there_is(archive: Archive) -> None:
    [hits] = archive.search(makers.unit_rows(1), 10**12, merge=False)
    assert len(hits) == 401
