"""What ``lrsclip search`` gives out: formats and files, areas, sentences, pictures, and the page of hits."""

from __future__ import annotations

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.archive import Archive, Hit, Hits
from lrsclip_rt.archive.answer import Answer
from lrsclip_rt.archive.footprints import rings_from_bbox
from lrsclip_rt.archive.sheets.contact_sheet import contact_sheet
from lrsclip_rt.archive.sheets.map_sketch import Footprint, map_sketch
from lrsclip_rt.cli.index import command as index_command
from lrsclip_rt.cli.search import command as search_command
from lrsclip_rt.errors import InputError, OutputExistsError
from lrsclip_rt.tiles import Window

rasterio = pytest.importorskip("rasterio")

TEXT = "Many ships in a harbour. A white storage tank."
HOSTILE = '<script>alert("1")</script> & "quoted"'
VOID = {"meta", "img", "br", "hr", "link"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(search_command, [str(argument) for argument in arguments])


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def write_scene(path: Path, *, crs: str, transform: Any, seed: int) -> None:
    small = np.random.default_rng(seed).integers(1, 255, (12, 16, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(small).resize((600, 400), Image.Resampling.BICUBIC))
    profile = {"driver": "GTiff", "height": 400, "width": 600, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    cos, sin = 10 * np.cos(np.radians(30)), 10 * np.sin(np.radians(30))
    turned = rasterio.Affine(cos, sin, 600_000, sin, -cos, 5_760_000)
    write_scene(folder / "turned_2024-05-06.tif", crs="EPSG:32631", transform=turned, seed=0)
    place = rasterio.Affine(0.001, 0, 4.0, 0, -0.001, 52.0)
    write_scene(folder / "port <b>.tif", crs="EPSG:4326", transform=place, seed=1)
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(
        folder / "photo.png"
    )
    return folder


@pytest.fixture(scope="module")
def archive(inputs: Path, made_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "archive"
    options = ["-a", folder, "-b", made_bundle, "--meta", "eo:cloud_cover=12.5"]
    result = CliRunner().invoke(index_command, [str(part) for part in (inputs, *options)])
    assert result.exit_code == 0, result.output
    return folder


def test_the_ending_of_the_file_names_the_format(archive: Path, tmp_path: Path) -> None:
    lines = rows_of(run(archive, TEXT, "-k", 5))
    for name in ("a.jsonl", "a.ndjson", "unknown.data"):
        assert run(archive, TEXT, "-k", 5, "-o", tmp_path / name).exit_code == 0
        assert [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] == lines
    for name in ("a.geojson", "a.json"):
        result = run(archive, TEXT, "-k", 5, "-o", tmp_path / name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"5 hits in {tmp_path / name}" in result.stderr
        features = json.loads((tmp_path / name).read_text())["features"]
        assert [feature["id"] for feature in features] == [row["id"] for row in lines]
    run(archive, TEXT, "-k", 5, "-o", tmp_path / "a.txt")
    table = (tmp_path / "a.txt").read_text()
    assert table.splitlines()[1].split()[1::2][:3] == ["rank", "score", "z"]
    printed = run(archive, TEXT, "-k", 5, "--format", "table").stdout
    assert "rank" in printed
    assert [line for line in printed.splitlines() if line[2:6] == "   1"]


def test_a_file_is_not_overwritten_unless_asked(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "hits.jsonl"
    path.write_text("mine")
    assert isinstance(run(archive, TEXT, "-o", path).exception, OutputExistsError)
    assert path.read_text() == "mine"
    assert run(archive, TEXT, "-o", path, "--overwrite").exit_code == 0
    assert json.loads(path.read_text().splitlines()[0])["rank"] == 1
    assert isinstance(run(archive, TEXT, "-o", tmp_path / "no" / "a.jsonl").exception, InputError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "html"], "name it with -o"),
        (["--format", "geoparquet"], "name it with -o"),
        (["--json", "--format", "geojson"], "leave one out"),
        (["--where", "cloud"], "is no condition"),
        (["--diverse", "2"], "range"),
        (["--diverse", "-1"], "range"),
    ],
)
def test_usage_mistakes_have_status_2(archive: Path, options: list[str], message: str) -> None:
    result = run(archive, TEXT, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_sentences_need_a_text(archive: Path, inputs: Path) -> None:
    assert run(archive, "--image", inputs / "photo.png", "--sentences").exit_code == 2


def test_every_row_tells_what_each_sentence_scores(archive: Path) -> None:
    rows = rows_of(run(archive, TEXT, "--sentences", "-k", 4))
    for row in rows:
        assert [part["text"] for part in row["sentences"]] == [
            "Many ships in a harbour.",
            "A white storage tank.",
        ]
    # The z of a sentence at a hit is that of a search for this sentence alone.
    alone = rows_of(run(archive, "A white storage tank.", "-k", 100, "--no-merge"))
    z = {row["id"]: row["z"] for row in alone}
    for row in rows:
        assert row["sentences"][1]["z"] == pytest.approx(z[row["id"]], abs=2e-4)


def test_a_sentence_that_matches_nowhere_is_named(archive: Path) -> None:
    presences = {}
    for sentence in ("Many ships in a harbour.", "A white storage tank."):
        result = run(archive, sentence, "--min-score", 2)
        found = re.search(r"best cosines is (-?\d\.\d+), below 2\.000", result.stderr)
        assert found, result.stderr
        presences[sentence] = float(found[1])
    low, high = sorted(presences, key=presences.__getitem__)
    between = (presences[low] + presences[high]) / 2
    assert presences[high] - presences[low] > 0.004
    result = run(archive, f"{low} {high}", "--sentences", "--min-score", between)
    assert re.search(r"sentence 1 matches (nowhere|at a few places at most) \(the mean", result.stderr)
    assert result.stderr.count("sentence ") == 1
    assert low in result.stderr
    everything = run(archive, f"{low} {high}", "--sentences", "--min-score", 2).stderr
    assert everything.count("matches nowhere") == 2


def test_an_area_of_interest_finds_what_touches_it(archive: Path, tmp_path: Path) -> None:
    ring = [[4.0, 51.6], [4.6, 51.6], [4.6, 51.75], [4.0, 51.75], [4.0, 51.6]]
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    result = run(archive, TEXT, "--aoi", path, "-k", 100, "--no-merge")
    box = rows_of(run(archive, TEXT, "--bbox", "4,51.6,4.6,51.75", "-k", 100, "--no-merge"))
    assert rows_of(result) == box
    assert box
    assert "1 rows have no place and were left out" in result.stderr
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[*ring[:2], *ring[3:1:-1], ring[0]]]}))
    assert "cross themselves" in str(run(archive, TEXT, "--aoi", path).exception)


def test_conditions_of_metadata_are_comparisons(archive: Path) -> None:
    everything = rows_of(run(archive, TEXT, "-k", 100, "--no-merge"))
    assert rows_of(run(archive, TEXT, "-k", 100, "--no-merge", "--where", "eo:cloud_cover<=20")) == everything
    nothing = run(archive, TEXT, "--where", "eo:cloud_cover>20")
    assert (nothing.stdout, nothing.exit_code) == ("", 0)
    assert "no row passes the filter" in nothing.stderr


def test_diverse_hits_keep_the_best_first(archive: Path) -> None:
    plain = rows_of(run(archive, TEXT, "-k", 4))
    assert rows_of(run(archive, TEXT, "-k", 4, "--diverse", 0)) == plain
    diverse = rows_of(run(archive, TEXT, "-k", 4, "--diverse", 0.8))
    assert diverse[0] == plain[0]
    assert [row["rank"] for row in diverse] == [1, 2, 3, 4]


def test_chips_are_named_in_every_row_and_the_same_every_time(archive: Path, tmp_path: Path) -> None:
    first = rows_of(run(archive, TEXT, "-k", 30, "--chips", tmp_path / "a"))
    again = rows_of(run(archive, TEXT, "-k", 30, "--chips", tmp_path / "b"))
    for row, other in zip(first, again, strict=True):
        assert Path(row["chip"]).name == f"{row['rank']:03d}-{row['id']}.png" == Path(other["chip"]).name
        assert Path(row["chip"]).read_bytes() == Path(other["chip"]).read_bytes()


def test_chips_of_a_turned_scene_lie_where_their_pixels_do(
    archive: Path, inputs: Path, tmp_path: Path
) -> None:
    rows = rows_of(run(archive, TEXT, "-k", 30, "--source", "turned*", "--chips", tmp_path / "a"))
    with rasterio.open(inputs / "turned_2024-05-06.tif") as scene:
        for row in rows:
            with rasterio.open(Path(row["chip"]).with_suffix(".tif")) as chip:
                col_off, row_off, width, height = row["window"]
                assert (chip.crs, chip.width, chip.height) == (scene.crs, width, height)
                for col, line in ((0, 0), (width, height), (width, 0)):
                    expected = scene.xy(row_off + line, col_off + col, offset="ul")
                    np.testing.assert_allclose(chip.xy(line, col, offset="ul"), expected, atol=1e-6)
                window = rasterio.windows.Window(col_off, row_off, width, height)
                assert (chip.read() == scene.read(window=window)).all()


def test_geoparquet_of_hits_is_read_by_geopandas(archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow writes GeoParquet")
    geopandas = pytest.importorskip("geopandas", reason="geopandas judges")
    rows = rows_of(run(archive, TEXT, "-k", 6))
    path = tmp_path / "hits.parquet"
    assert run(archive, TEXT, "-k", 6, "-o", path).exit_code == 0
    frame = geopandas.read_parquet(path)
    assert frame["id"].tolist() == [row["id"] for row in rows]
    assert frame["rank"].tolist() == [row["rank"] for row in rows]
    np.testing.assert_allclose(frame["score"], [row["score"] for row in rows], atol=1e-6)
    placed = frame[[row["bbox"] is not None for row in rows]]
    expected = [row["bbox"] for row in rows if row["bbox"] is not None]
    np.testing.assert_allclose(placed.geometry.bounds.to_numpy(), expected, atol=1e-6)


class Page(HTMLParser):
    """Tags in order, checked for closing; texts; attributes that load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str, class_: str | None = None) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and (class_ is None or a.get("class") == class_)]


def test_the_page_shows_every_hit_and_loads_nothing(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "hits.html"
    result = run(archive, f"{HOSTILE}. {TEXT}", "-k", 8, "--sentences", "--since", "2001-01-01", "-o", path)
    assert result.exit_code == 0, result.output
    rows = rows_of(run(archive, f"{HOSTILE}. {TEXT}", "-k", 8, "--since", "2001-01-01"))
    text = path.read_text()
    page = Page(text)
    cards = page.named("article", "card")
    assert [card["id"] for card in cards] == [f"hit-{row['rank']}" for row in rows]
    assert page.named("script") == []
    assert HOSTILE in " ".join(page.texts)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:image/jpeg;base64,", "#hit-")), address
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    policies = [meta.get("content") or "" for meta in page.named("meta")]
    assert any(policy.startswith("default-src 'none'") for policy in policies)
    for row, image in zip(rows, page.named("img"), strict=True):
        with Image.open(BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))) as picture:
            assert picture.format == "JPEG"
            ratio = row["window"][2] / row["window"][3]
            assert picture.width / picture.height == pytest.approx(ratio, rel=0.02)
        assert f"{row['score']:.3f}".replace("-", "\N{MINUS SIGN}") in page.texts
        assert row["id"][:12] in page.texts
    assert "since 2001-01-01" in page.texts


def test_a_source_that_is_gone_has_a_card_without_a_picture(
    archive: Path, inputs: Path, made_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs, tmp_path / "in")
    folder = tmp_path / "archive"
    arguments = [str(tmp_path / "in"), "-a", str(folder), "-b", str(made_bundle)]
    assert CliRunner().invoke(index_command, arguments).exit_code == 0
    (tmp_path / "in" / "port <b>.tif").unlink()
    result = run(folder, TEXT, "-k", 30, "-o", tmp_path / "a.html")
    assert result.exit_code == 1
    assert result.stderr.count("failed: ") == 1
    assert "1 input(s) failed" in result.stderr
    assert "port <b>.tif" in result.stderr
    page = Page((tmp_path / "a.html").read_text())
    rows = rows_of(run(folder, TEXT, "-k", 30))
    gone = [row for row in rows if "port" in row["source"]]
    assert gone
    assert len(page.named("article")) == len(rows)
    assert len(page.named("img")) == len(rows) - len(gone)
    assert page.texts.count("No picture: the source cannot be read any more.") == len(gone)
    assert page.texts.count("port <b>.tif") == len(gone)


def test_a_page_of_no_match_says_so(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.html"
    assert run(archive, TEXT, "--min-score", 0.999, "-o", path).exit_code == 0
    page = Page(path.read_text())
    assert page.named("article") == []
    assert any("No match" in text for text in page.texts)
    assert page.named("div", "gauge absent")


def test_a_page_of_hits_without_a_place_has_no_map(archive: Path) -> None:
    with Archive.open(archive) as opened:
        [hits] = opened.search(np.ones(16))
        [photo] = [hit for hit in opened.search(np.ones(16), 100)[0] if hit.source.endswith("photo.png")]
        page, failures = contact_sheet(opened, Answer("x", Hits((photo,), 0.5, None, 1)))
        assert failures == []
        assert Page(page).named("svg") == []
        with_map, _ = contact_sheet(opened, Answer("x", hits))
        assert len(Page(with_map).named("svg", "map")) == 1


def footprint(rank: int, bbox: tuple[float, float, float, float]) -> Footprint:
    return Footprint(rank, rings_from_bbox(bbox), f"hit {rank}")


def marks(svg: str) -> dict[int, tuple[float, float]]:
    root = ET.fromstring(svg)
    return {
        int(link.attrib["href"].partition("-")[2]): (float(circle.attrib["cx"]), float(circle.attrib["cy"]))
        for link in root.iter("a")
        for circle in link.iter("circle")
    }


def test_the_map_keeps_directions_and_scale() -> None:
    west, east, north = (10.0, 60.0, 10.1, 60.1), (11.0, 60.0, 11.1, 60.1), (10.0, 60.5, 10.1, 60.6)
    svg = map_sketch([footprint(1, west), footprint(2, east), footprint(3, north)])
    assert svg is not None
    at = marks(svg)
    assert at[2][0] > at[1][0]
    assert at[2][1] == pytest.approx(at[1][1], abs=0.2)
    assert at[3][1] < at[1][1]
    # A degree of longitude is cos(latitude) of one of latitude.
    squeeze = (at[2][0] - at[1][0]) / (2 * (at[1][1] - at[3][1]))
    assert squeeze == pytest.approx(np.cos(np.radians(60.3)), rel=0.01)
    km = re.search(r"([\d.]+) (km|m)</text>", svg)
    bar = re.search(r"h([\d.]+)v-5", svg)
    assert km
    assert bar
    per_px = 0.5 * 111.195 / (at[1][1] - at[3][1])
    assert float(bar[1]) * per_px == pytest.approx(float(km[1]) / (1 if km[2] == "km" else 1000), rel=0.02)


def test_the_map_does_not_tear_at_the_antimeridian() -> None:
    svg = map_sketch(
        [footprint(1, (179.0, -18.0, 179.2, -17.8)), footprint(2, (-179.4, -18.0, -179.2, -17.8))]
    )
    assert svg is not None
    at = marks(svg)
    assert 0 < at[2][0] - at[1][0] < 640
    across = map_sketch([footprint(1, (179.0, -18.0, -179.0, -17.0))])
    assert across is not None
    assert 250 < marks(across)[1][0] < 390
    assert "E</text>" in svg
    assert "W</text>" in svg


@pytest.mark.parametrize("bbox", [(0.0, 0.0, 0.0, 0.0), (-180.0, -90.0, 180.0, 90.0), (5.0, 89.9, 6.0, 90.0)])
def test_a_map_of_a_point_and_of_the_world_can_be_drawn(bbox: tuple[float, float, float, float]) -> None:
    svg = map_sketch([footprint(1, bbox)])
    assert svg is not None
    numbers = [float(value) for pair in marks(svg).values() for value in pair]
    assert np.isfinite(numbers).all()
    assert "nan" not in svg
    assert map_sketch([Footprint(1, (), "nowhere")]) is None


def test_titles_on_the_map_are_escaped() -> None:
    svg = map_sketch([Footprint(1, rings_from_bbox((0.0, 0.0, 1.0, 1.0)), HOSTILE)])
    assert svg is not None
    title = next(ET.parse(StringIO(svg)).getroot().iter("title"))
    assert title.text == HOSTILE


def test_an_unreadable_hit_is_not_drawn_from_elsewhere(archive: Path) -> None:
    stranger = Hit(1, 0.5, 1.0, "ab" * 16, "gone.tif", Window(0, 0, 8, 8), None, None, 0)
    with Archive.open(archive) as opened:
        page, failures = contact_sheet(opened, Answer("x", Hits((stranger,), 0.5, None, 1)))
    assert failures
    assert failures[0][0] == "gone.tif"
    assert Page(page).named("img") == []
