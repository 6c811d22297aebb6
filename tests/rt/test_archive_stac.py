from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.archive import Archive, Where
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.archive.inputs import InputFile, list_inputs
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.archive.stac.reading import ItemGeoreference, RefusedItem, StacAsset, assets_from_stac
from lrsclip_rt.embedder import Embedder, load

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


def item(href: str = "scene.png", **changes: Any) -> dict[str, Any]:
    record = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "one",
        "collection": "harbours",
        "geometry": None,
        "properties": {
            "datetime": "2020-08-31T17:39:01.5Z",
            "platform": "sentinel-2a",
            "eo:cloud_cover": 12.5,
            "view:good": True,
            "instruments": ["msi"],
            "created": None,
        },
        "assets": {"visual": {"href": href, "type": "image/png", "roles": ["visual"]}},
        "links": [],
    }
    return {**record, **changes}


def write(path: Path, record: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record if isinstance(record, str) else json.dumps(record), encoding="utf-8")
    return path


def picture(path: Path, seed: int = 0, *, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def only(path: Path, asset: str | None = None) -> StacAsset:
    (found,) = assets_from_stac(path, asset=asset)
    assert isinstance(found, StacAsset), found
    return found


def refusal(path: Path, asset: str | None = None) -> str:
    (found,) = assets_from_stac(path, asset=asset)
    assert isinstance(found, RefusedItem)
    return found.reason


def test_an_item_names_its_file_and_says_what_it_is(tmp_path: Path) -> None:
    found = only(write(tmp_path / "item.json", item("./data/scene.png")))
    assert found.path == tmp_path / "data" / "scene.png"
    assert found.facts.metadata == {
        "id": "one",
        "collection": "harbours",
        "datetime": "2020-08-31T17:39:01.5Z",
        "platform": "sentinel-2a",
        "eo:cloud_cover": "12.5",
        "view:good": "true",
    }
    assert found.facts.time_us == 1598895541500000
    assert found.facts.georeference is None


def test_an_interval_begins_with_its_start(tmp_path: Path) -> None:
    times = {
        "datetime": None,
        "start_datetime": "2020-01-01T00:00:00Z",
        "end_datetime": "2020-02-01T00:00:00Z",
    }
    found = only(write(tmp_path / "item.json", item(properties=times)))
    assert found.facts.time_us == 1577836800000000
    assert found.facts.metadata["end_datetime"] == "2020-02-01T00:00:00Z"


def test_the_asset_is_the_one_asked_for_else_visual_else_the_only_one_with_data(tmp_path: Path) -> None:
    tiff = "image/tiff; application=geotiff"
    b04 = {"href": "B04.tif", "type": tiff, "roles": ["data"]}
    thumb = {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]}
    meta = {"href": "m.xml", "type": "application/xml"}
    cases: list[tuple[dict[str, Any], str | None, str]] = [
        ({"visual": {"href": "v.tif"}, "B04": b04}, None, "v.tif"),
        ({"visual": {"href": "v.tif"}, "B04": b04}, "B04", "B04.tif"),
        ({"B04": b04, "thumb": thumb, "meta": meta}, None, "B04.tif"),
        ({"image": {"href": "i.tif", "type": tiff}, "thumb": thumb, "meta": meta}, None, "i.tif"),
    ]
    for assets, key, expected in cases:
        path = write(tmp_path / "item.json", item(assets=assets))
        assert only(path, key).path == tmp_path / expected
    two = write(tmp_path / "item.json", item(assets={"B04": b04, "B03": {**b04, "href": "B03.tif"}}))
    assert "not clear which of its assets to take, 'B04', 'B03'; name one with --asset" in refusal(two)
    assert "it has no asset 'B12'; its assets are 'B04', 'B03'" in refusal(two, "B12")


def test_hrefs_are_local_paths_plain_or_escaped(tmp_path: Path) -> None:
    plain = picture(tmp_path / "50%20 done" / "a.png")
    spaced = picture(tmp_path / "two words.png")
    for href, expected in [
        ("50%20 done/a.png", plain),
        ("two%20words.png", spaced),
        ("two words.png", spaced),
        (spaced.as_uri(), spaced),
        (str(spaced), spaced),
    ]:
        assert only(write(tmp_path / "item.json", item(href))).path == expected
    for href in ("https://example.org/a.tif", "s3://bucket/a.tif", "file://elsewhere/a.tif"):
        assert "files must be local" in refusal(write(tmp_path / "item.json", item(href)))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "no valid JSON"),
        ("[]", "expected a JSON object"),
        ("[" * 100_000, "no valid JSON"),
        ('{"type": "Feature", "type": "Feature"}', "occurs twice"),
        ('{"type": "Feature", "id": NaN}', "NaN is not a JSON number"),
        ({"type": "Polygon"}, "expected a STAC Item, FeatureCollection, Catalog or Collection"),
        ({"type": "FeatureCollection", "features": []}, "holds no items"),
        ({"type": "FeatureCollection", "features": 3}, "features must be a list"),
        ({"type": "Catalog", "stac_version": "1.0.0", "links": []}, "links to no items"),
        ({"type": "Catalog", "stac_version": "1.0.0", "links": [3]}, "a link is 3"),
        (item(stac_version=None), "no stac_version"),
        (item(id=""), "its id must be a text"),
        (item(id=7), "its id must be a text"),
        (item(properties=None), "its properties must be an object"),
        (item(properties={}), "neither datetime nor start_datetime"),
        (item(properties={"datetime": "yesterday"}), "is no date or time"),
        (item(properties={"datetime": "2020-01-01", "x": "\ud800"}), "half a character"),
        (item(assets=[]), "its assets must be an object"),
        (item(assets={}), "its assets are|take, none"),
        (item(assets={"visual": 3}), "'visual' is no object"),
        (item(assets={"visual": {}}), "its href must be a text"),
        (item("x" * 5000), "is no path"),
        (item("a\0b"), "is no path"),
        (
            item(
                properties={**item()["properties"], "proj:code": "x", "proj:transform": [], "proj:shape": []}
            ),
            "proj:code",
        ),
        (
            item(
                properties={
                    "datetime": "2020-01-01",
                    "proj:epsg": 1,
                    "proj:transform": [1],
                    "proj:shape": [1, 1],
                }
            ),
            "six or nine numbers",
        ),
        (
            item(
                properties={
                    "datetime": "2020-01-01",
                    "proj:epsg": 1,
                    "proj:transform": [1, 0, 0, 0, 1, 10**400],
                    "proj:shape": [1, 1],
                }
            ),
            "six or nine numbers",
        ),
        (
            item(
                properties={
                    "datetime": "2020-01-01",
                    "proj:epsg": 1,
                    "proj:transform": [1, 0, 0, 0, 1, 0],
                    "proj:shape": [0, True],
                }
            ),
            r"\[rows, columns\]",
        ),
    ],
)
def test_what_is_broken_is_refused_by_name(tmp_path: Path, record: Any, said: str) -> None:
    path = write(tmp_path / "item.json", record)
    (found,) = assets_from_stac(path)
    assert isinstance(found, RefusedItem)
    assert found.name.startswith(str(path))
    import re

    assert re.search(said, found.reason), found.reason


def test_a_document_that_is_too_large_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrsclip_rt.archive.stac.reading.MAX_BYTES", 100)
    assert "at most 100 are read" in refusal(write(tmp_path / "item.json", item()))


def test_a_catalogue_is_followed_once_and_in_order(tmp_path: Path) -> None:
    def catalog(*links: tuple[str, str], kind: str = "Catalog") -> dict[str, Any]:
        return {
            "type": kind,
            "stac_version": "1.0.0",
            "id": "c",
            "links": [{"rel": rel, "href": href} for rel, href in links],
        }

    write(
        tmp_path / "catalog.json",
        catalog(
            ("self", "catalog.json"),
            ("child", "a/collection.json"),
            ("item", "x.json"),
            ("child", "catalog.json"),
            ("item", "gone.json"),
        ),
    )
    write(
        tmp_path / "a" / "collection.json",
        catalog(
            ("parent", "../catalog.json"), ("item", "y.json"), ("child", "../catalog.json"), kind="Collection"
        ),
    )
    write(tmp_path / "x.json", item("x.png", id="x"))
    write(tmp_path / "a" / "y.json", item("../pictures/y.png", id="y"))
    for source in (tmp_path, tmp_path / "catalog.json"):
        found = list(list_inputs([source]))
        files = [file for file in found if isinstance(file, InputFile)]
        assert [(file.relative, file.facts.metadata["id"]) for file in files] == [
            ("pictures/y.png", "y"),
            ("x.png", "x"),
        ]
        (gone,) = [file for file in found if isinstance(file, RefusedItem)]
        assert gone.name == str(tmp_path / "gone.json")
        assert "does not exist" in gone.reason


def test_a_folder_with_any_other_catalog_json_is_walked(tmp_path: Path) -> None:
    write(tmp_path / "catalog.json", {"shop": "toys"})
    picture(tmp_path / "a.png")
    (file,) = list_inputs([tmp_path])
    assert isinstance(file, InputFile)
    assert file.path == tmp_path / "a.png"


def test_items_reach_the_archive_and_its_filters(tmp_path: Path, model: Embedder) -> None:
    inputs = tmp_path / "inputs"
    picture(inputs / "drone_2011-01-01.png", 1)
    picture(inputs / "b.png", 2)
    (inputs / "broken.png").write_bytes(b"no image")
    later = {"datetime": "2021-05-06T00:00:00Z", "platform": "other"}
    features = [
        item("drone_2011-01-01.png"),
        item("b.png", id="two", properties=later),
        item("broken.png", id="three"),
        item("missing.png", id="four"),
        item(id="five", assets={}),
    ]
    path = write(inputs / "items.json", {"type": "FeatureCollection", "features": features})
    options = IndexOptions(metadata={"platform": "mine", "campaign": "spring"})
    report = index_sources(tmp_path / "archive", [path], model, options)
    assert (report.rows, report.new_sources) == (2, 2)
    assert sorted(Path(name).name for name, _ in report.failures) == [
        "broken.png",
        "items.json#five",
        "missing.png",
    ]
    query = np.ones(16)
    with Archive.open(tmp_path / "archive") as archive:

        def names(**where: Any) -> set[str]:
            return {Path(hit.source).name for hit in archive.search(query, where=Where(**where))[0]}

        assert names(metadata={"id": "two"}) == {"b.png"}
        assert names(metadata={"collection": "harbours", "eo:cloud_cover": "12.5"}) == {
            "drone_2011-01-01.png"
        }
        assert names(metadata={"campaign": "spring"}) == {"b.png", "drone_2011-01-01.png"}
        assert names(metadata={"platform": "mine"}) == {"b.png", "drone_2011-01-01.png"}, "--meta wins"
        assert names(start="2020-08-31", end="2020-08-31") == {"drone_2011-01-01.png"}, (
            "STAC wins over a name"
        )
    again = index_sources(tmp_path / "archive", [path], model, options)
    assert (again.rows, again.known_sources, len(again.failures)) == (0, 2, 3)


def test_a_file_without_a_place_gets_that_of_its_item(tmp_path: Path, model: Embedder) -> None:
    picture(tmp_path / "a.png", height=300, width=400)
    place = {"proj:epsg": 32650, "proj:transform": [10, 0, 500_000, 0, -10, 4_000_000, 0, 0, 1]}
    item_of = item("a.png", properties={**item()["properties"], **place, "proj:shape": [300, 400]})
    path = write(tmp_path / "item.json", item_of)
    expected = ItemGeoreference("EPSG:32650", (10, 0, 500_000, 0, -10, 4_000_000), 300, 400)
    assert only(path).facts.georeference == expected
    report = index_sources(tmp_path / "archive", [path], model)
    with Archive.open(tmp_path / "archive") as archive:
        content = archive.content(1)
        assert (content.crs, content.transform) == ("EPSG:32650", expected.transform)
        assert content.gsd_m == pytest.approx(10.0, rel=1e-3)
        tiles = archive.tiles_of_source(1)
        assert len(tiles) == report.rows == 4, "it has a place, so it is cut into tiles"
        lon, lat = rasterio.warp.transform("EPSG:32650", "EPSG:4326", [500_000], [4_000_000])
        assert tiles[0].tile.bbox is not None
        assert (tiles[0].tile.bbox[0], tiles[0].tile.bbox[3]) == pytest.approx((lon[0], lat[0]), abs=1e-7)


def test_a_place_that_does_not_fit_the_file_is_a_failure(tmp_path: Path, model: Embedder) -> None:
    place = {"proj:transform": [10, 0, 0, 0, -10, 0], "proj:shape": [40, 60]}
    for name, changes, said in [
        ("a", {"proj:code": "EPSG:32650", "proj:shape": [20, 30]}, "proj:shape of its item says 30 x 20"),
        ("b", {"proj:code": "EPSG:999999"}, "which PROJ does not know"),
    ]:
        picture(tmp_path / f"{name}.png")
        properties = {**item()["properties"], **place, **changes}
        path = write(tmp_path / f"{name}.json", item(f"{name}.png", properties=properties))
        report = index_sources(tmp_path / "archive", [path], model)
        assert [reason for _, reason in report.failures if said in reason], report.failures


def test_a_raster_keeps_its_own_place(tmp_path: Path, model: Embedder) -> None:
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with rasterio.open(
            tmp_path / "a.tif", "w", transform=rasterio.Affine(0.001, 0, 5, 0, -0.001, 52), **profile
        ) as dataset:
            dataset.write(noise)
    place = {"proj:code": "EPSG:32650", "proj:transform": [10, 0, 0, 0, -10, 0], "proj:shape": [64, 64]}
    path = write(tmp_path / "i.json", item("a.tif", properties={**item()["properties"], **place}))
    index_sources(tmp_path / "archive", [path], model)
    with Archive.open(tmp_path / "archive") as archive:
        assert archive.content(1).crs == "EPSG:4326"
        assert archive.tiles_of_source(1)[0].tile.time_us == 1598895541500000
