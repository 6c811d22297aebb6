"""The demonstration from scenes to report, and what a model must understand of scenes it never saw."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.bundle import BUILT_IN, MANIFEST_FILE
from lrsclip_rt.cli.demo import command
from lrsclip_rt.demonstration import Story, demonstrate
from lrsclip_rt.demonstration.judging import outline_mask, outlines_of, point_inside, shown_classes
from lrsclip_rt.demonstration.markup import Markup, document, element
from lrsclip_rt.demonstration.output_folder import MARKER
from lrsclip_rt.demonstration.scenes import ABSENT_CLASS, SCENE_SEEDS
from lrsclip_rt.demonstration.understanding import class_scores, measure_understanding
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError, OutputExistsError
from lrsclip_rt.raster import open_scene
from lrsclip_rt.rendering import (
    CLASSES,
    DEMO_SEEDS,
    PHRASES,
    TEST_SEEDS,
    TRAIN_SEEDS,
    RenderedScene,
    render_scene,
)
from lrsclip_rt.tiles import Window, tile_grid

pytest.importorskip("rasterio", reason="the demonstration writes GeoTIFFs")
pytest.importorskip("onnxruntime", reason="the demonstration runs a model")

VOID = {"br", "hr", "img", "link", "meta"}
LOADING = {"src", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Walks a page: tags must be balanced, and everything that a browser would load is collected."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.identifiers: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} repeats an attribute"
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} runs a script by {name}"
            if name in LOADING or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name == "id":
                self.identifiers.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def story(made_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The whole demonstration on two small scenes, answered by a model that sees the mean colour."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    model = load(made_bundle, threads=1)
    return demonstrate(model, folder, seeds=SCENE_SEEDS[1:3], side=448, tile=128)


@pytest.fixture(scope="module")
def page(story: Story) -> Page:
    return Page(story.report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scene() -> RenderedScene:
    return render_scene(DEMO_SEEDS[5], height=512, width=512)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


# -- the story --------------------------------------------------------------------------------------


def test_every_class_of_the_scenes_is_asked_for_and_localized(story: Story) -> None:
    present = [name for name in CLASSES if any(name in scene.classes for scene in story.scenes)]
    assert [answer.expected for answer in story.answers] == present
    assert [answer.text for answer in story.answers] == [PHRASES[name] for name in present]
    pairs = [(i, name) for i, scene in enumerate(story.scenes) for name in scene.classes]
    assert [(located.scene, located.expected) for located in story.located] == pairs
    assert all(located.heatmap.text == PHRASES[str(located.expected)] for located in story.located)


def test_hits_come_best_first_and_are_judged_by_what_their_tiles_show(story: Story) -> None:
    truths = {scene.title: scene.truth for scene in story.scenes}
    judged = 0
    for answer in story.answers:
        scores = [place.hit.score for place in answer.places]
        assert scores == sorted(scores, reverse=True)
        for place in answer.places:
            shows = shown_classes(truths[place.title], place.hit.window)
            assert place.shows == shows
            assert place.right == (answer.expected in shows)
            judged += 1
    assert judged == 4 * len(story.answers)
    assert {place.right for answer in story.answers for place in answer.places} == {True, False}


def test_long_descriptions_are_long_and_rank_every_scene(story: Story) -> None:
    assert len(story.rankings) == len(story.scenes)
    for ranking, scene in zip(story.rankings, story.scenes, strict=True):
        assert 80 <= ranking.tokens <= 220
        assert ranking.text == scene.truth.long
        assert len(ranking.scores) == len(story.scenes)
        assert ranking.scores != ranking.short_scores
        assert ranking.rank == 1 + sum(s > ranking.scores[ranking.expected] for s in ranking.scores)


def test_something_absent_is_asked_and_nothing_is_marked_right_or_wrong_there(story: Story) -> None:
    assert story.absent is not None
    assert story.absent.text not in [answer.text for answer in story.answers]
    assert [place.right for place in story.absent.places] == [None] * 4


def test_peaks_are_held_against_the_true_outlines(story: Story) -> None:
    for located in story.located:
        truth = story.scenes[located.scene].truth
        assert located.outlines == outlines_of(truth, str(located.expected))
        inside = any(point_inside(located.heatmap.peak, ring) for ring in located.outlines)
        assert located.inside == inside


def test_the_scenes_lie_at_a_place_that_says_that_it_is_invented(story: Story) -> None:
    import rasterio

    for scene in story.scenes:
        with rasterio.open(scene.path) as dataset:
            assert "invented" in dataset.tags()["TIFFTAG_IMAGEDESCRIPTION"]
            assert dataset.crs.to_epsg() == 32625
        with open_scene(scene.path) as opened:
            assert opened.gsd_m == pytest.approx(scene.gsd_m, rel=1e-3)
            assert np.array_equal(opened.read(opened.extent), scene.truth.pixels)
    truth = json.loads((story.folder / "scenes" / "truth.json").read_text())
    assert [len(record["objects"]) for record in truth["scenes"]] == [len(s.classes) for s in story.scenes]


def test_demo_seeds_are_never_trained_on_and_leave_one_class_out() -> None:
    assert all(seed in DEMO_SEEDS and seed not in TRAIN_SEEDS for seed in SCENE_SEEDS)
    there = {o.name for seed in SCENE_SEEDS for o in render_scene(seed).objects}
    assert set(CLASSES) - there == {ABSENT_CLASS}


# -- the report -------------------------------------------------------------------------------------


def test_the_report_is_well_formed_and_loads_nothing(page: Page) -> None:
    assert page.loaded
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert "script" not in page.tags
    assert len(set(page.identifiers)) == len(page.identifiers)
    assert all(link.startswith("#") and link[1:] in page.identifiers for link in page.links)


def test_the_report_shows_every_question_and_the_long_texts_in_full(story: Story, page: Page) -> None:
    for answer in story.answers:
        assert answer.text in page.text
    for ranking in story.rankings:
        assert ranking.text in page.text
    assert story.model.name in page.text
    assert "rendered" in page.text
    assert "invented" in page.text


def test_every_picture_of_the_report_can_be_decoded(story: Story, page: Page) -> None:
    for address in page.loaded:
        header, _, data = address.partition(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
    files = sorted((story.folder / "pictures").iterdir())
    for path in files:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
    names = [path.name for path in files]
    drawn = sum(located.shown for located in story.located)
    assert sum(name.startswith("heat-") for name in names) == drawn == 6
    assert sum(name.startswith("search-") for name in names) == len(story.answers)
    assert sum(name.startswith("scene-") for name in names) == len(story.scenes)


def test_right_hits_carry_a_check_mark_and_wrong_ones_a_cross(story: Story) -> None:
    text = story.report.read_text(encoding="utf-8")
    asked = [*story.answers, story.example]
    right = sum(place.right is True for answer in asked for place in answer.places)
    wrong = sum(place.right is False for answer in asked for place in answer.places)
    assert text.count("\N{CHECK MARK}") == right
    assert text.count("\N{MULTIPLICATION X}") == wrong


def test_markup_escapes_texts_and_attributes_but_not_markup() -> None:
    made = element("p", "<b> & ", element("i", '"'), [None, Markup("<br>")], title="\"'<>&", hidden=True)
    assert made == ('<p title="&quot;&#x27;&lt;&gt;&amp;" hidden>&lt;b&gt; &amp; <i>&quot;</i><br></p>')
    assert Page(document(title="</title><script>", style="", body=made)).tags.count("script") == 0


def test_names_that_are_no_unicode_text_do_not_break_the_page() -> None:
    document(title="\udcff\x00\x1b", style="", body="\ud800 name").encode("utf-8")


# -- judging ----------------------------------------------------------------------------------------


def test_a_tile_shows_what_covers_a_fifth_of_it_or_has_half_of_itself_in_it(scene: RenderedScene) -> None:
    masks = [(o.name, outline_mask(o.polygon, Window(0, 0, 512, 512))) for o in scene.objects]
    seen = set()
    for window in tile_grid(512, 512, size=96, overlap=0.5):
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        shown = set()
        for name, mask in masks:
            inside = int(mask[rows, cols].sum())
            if inside >= 0.2 * 96 * 96 or inside >= 0.5 * mask.sum():
                shown |= {name, "river"} if name == "bridge" else {name}
        assert set(shown_classes(scene, window)) == shown
        seen |= shown
    assert {name for name, _ in masks} <= seen


def test_a_bridge_counts_for_the_river_below_it() -> None:
    seed = next(s for s in DEMO_SEEDS if "bridge" in [o.name for o in render_scene(s).objects])
    truth = render_scene(seed)
    (bridge,) = (o for o in truth.objects if o.name == "bridge")
    box = Window(bridge.col_off, bridge.row_off, bridge.width, bridge.height)
    assert {"bridge", "river"} <= set(shown_classes(truth, box))
    assert bridge.polygon in outlines_of(truth, "river")


def test_point_in_outline_agrees_with_the_painted_mask(scene: RenderedScene) -> None:
    rng = np.random.default_rng(4)
    points = rng.integers(0, 512, (300, 2))
    for thing in scene.objects:
        mask = outline_mask(thing.polygon, Window(0, 0, 512, 512))
        asked = np.array([point_inside((col + 0.5, row + 0.5), thing.polygon) for col, row in points])
        painted = mask[points[:, 1], points[:, 0]]
        assert (asked == painted).mean() > 0.98  # they may differ on the outline itself


# -- the folder -------------------------------------------------------------------------------------


def test_a_second_demonstration_needs_overwrite_and_keeps_files_that_are_not_its_own(
    made_bundle: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(images / "grey.png")
    out = tmp_path / "out"
    assert run("-b", made_bundle, "--images", images, "-o", out).exit_code == 0
    (out / "notes.txt").write_text("mine")
    (out / "pictures" / "stale.png").write_bytes(b"")
    refused = run("-b", made_bundle, "--images", images, "-o", out)
    assert isinstance(refused.exception, OutputExistsError)
    assert (out / "pictures" / "stale.png").exists()
    assert run("-b", made_bundle, "--images", images, "-o", out, "--overwrite").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "pictures" / "stale.png").exists()


@pytest.mark.parametrize("marker", [None, '{"made_by": "somebody else"}', "not json"])
def test_a_foreign_folder_is_never_replaced(made_bundle: Path, tmp_path: Path, marker: str | None) -> None:
    out = tmp_path / "photos"
    (out / "pictures").mkdir(parents=True)
    (out / "pictures" / "holiday.png").write_bytes(b"precious")
    if marker is not None:
        (out / MARKER).write_text(marker)
    for options in ((), ("--overwrite",)):
        result = run("-b", made_bundle, "-o", out, *options)
        assert isinstance(result.exception, OutputExistsError), result.output
    assert (out / "pictures" / "holiday.png").read_bytes() == b"precious"


def test_images_that_are_part_of_the_demonstration_are_refused_before_anything_is_removed(
    made_bundle: Path, tmp_path: Path
) -> None:
    scenes = tmp_path / "out" / "scenes"
    scenes.mkdir(parents=True)
    (scenes / "a.tif").write_bytes(b"x")
    (tmp_path / "out" / MARKER).write_text('{"made_by": "lrsclip demo"}')
    result = run("-b", made_bundle, "-o", tmp_path / "out", "--images", scenes, "--overwrite")
    assert isinstance(result.exception, InputError)
    assert (scenes / "a.tif").exists()


def test_missing_images_are_refused_before_a_folder_is_made(made_bundle: Path, tmp_path: Path) -> None:
    result = run("-b", made_bundle, "-o", tmp_path / "out", "--images", tmp_path / "nothing")
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "out").exists()


# -- a user's images --------------------------------------------------------------------------------


def test_hostile_file_names_are_escaped_and_a_broken_image_is_listed(
    made_bundle: Path, tmp_path: Path
) -> None:
    images = tmp_path / "im<b>ages"
    images.mkdir()
    rng = np.random.default_rng(1)
    for name in ("<script>alert(1)<!--.png", "a&b 'quoted' \"twice\".png", "plain.png"):
        Image.fromarray(rng.integers(0, 255, (300, 280, 3), np.uint8)).save(images / name)
    (images / "<img src=x onerror=alert(2)>.jpg").write_bytes(b"\xff\xd8 not an image")
    out = tmp_path / "out"
    result = run("-b", made_bundle, "--images", images, "-o", out, "--threads", 1)
    assert result.exit_code == 1
    assert "onerror" in result.stderr
    assert "1 input(s) failed" in result.stderr
    raw = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in raw
    assert "<img src=x" not in raw
    page = Page(raw)
    assert "<script>alert(1)<!--.png" in page.text
    assert "a&b 'quoted' \"twice\".png" in page.text
    assert "<img src=x onerror=alert(2)>.jpg" in page.text
    assert "1 file could not be used" in page.text
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[-1]["part"] == "summary"
    assert rows[-1]["report"] == str(out / "report.html")
    assert (rows[-1]["sources"], rows[-1]["failed"]) == (3, 1)
    assert sum(row["part"] == "localize" for row in rows) == 3


def test_questions_about_own_images_are_ordered_by_how_much_they_stand_out(
    made_bundle: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, colour in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120))):
        size = 96 + 16 * number
        Image.new("RGB", (size, size), colour).save(images / f"{number}.png")
    found = demonstrate(load(made_bundle, threads=1), tmp_path / "out", images=images)
    z = [answer.places[0].hit.z for answer in found.answers]
    assert z == sorted(z, reverse=True)
    assert all(place.right is None for answer in found.answers for place in answer.places)
    assert [scene.title for scene in found.scenes] == ["3.png"]
    assert len(found.located) == 3
    assert found.sources == 4


def test_a_folder_of_broken_images_alone_still_gives_a_report(made_bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "b.png"):
        (images / name).write_bytes(b"no image")
    result = run("-b", made_bundle, "--images", images, "-o", tmp_path / "out")
    assert result.exit_code == 1
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "2 files could not be used" in page.text


# -- understanding ----------------------------------------------------------------------------------


def test_a_class_ranks_first_when_more_than_half_of_its_pictures_are_right() -> None:
    rows = {"airport": [0, 0, 1], "beach": [1, 0], "pond": [CLASSES.index("pond")] * 2}
    keys = [name for name, best in rows.items() for _ in best]
    embeddings = np.eye(len(CLASSES), dtype=np.float32)[[b for best in rows.values() for b in best]]
    batch = SimpleNamespace(keys=keys, embeddings=embeddings)
    model = SimpleNamespace(stream_images=lambda pictures: [batch])
    scores = class_scores(model, iter(()), np.eye(len(CLASSES), dtype=np.float32))
    found = {score.name: (score.right, score.tiles, score.ranks_first, score.taken_for) for score in scores}
    assert found == {
        "airport": (2, 3, True, "beach"),
        "beach": (1, 2, False, "airport"),
        "pond": (2, 2, True, None),
    }


def test_a_model_that_sees_only_the_mean_colour_does_not_understand(made_bundle: Path) -> None:
    found = measure_understanding(load(made_bundle, threads=1), tiles=2, scenes=1)
    assert found.classes_first < 0.4
    assert [score.tiles for score in found.tiles] == [2] * len(CLASSES)
    names = [o.name for o in render_scene(TEST_SEEDS[0]).objects]
    assert [score.name for score in found.peaks] == names
    assert sum(score.tiles for score in found.zones) == len(names)
    json.dumps(found.as_dict())


@pytest.mark.skipif(
    not (BUILT_IN / MANIFEST_FILE).is_file(), reason="this checkout has no built-in bundle yet"
)
def test_the_built_in_model_understands_scenes_of_unseen_seeds() -> None:
    found = measure_understanding(load(), tiles=5, scenes=4)
    said = json.dumps(found.as_dict())
    assert found.classes_first >= 0.8, said
    assert found.zones_first >= 0.8, said
    assert found.peaks_inside >= 0.7, said


# -- the command ------------------------------------------------------------------------------------


def test_the_command_prints_one_line_an_answer_and_the_report_last(
    made_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrsclip_rt import demonstration

    def small(*arguments: object, **options: object) -> Story:
        return demonstrate(*arguments, seeds=SCENE_SEEDS[:1], side=448, tile=128, **options)

    monkeypatch.setattr(demonstration, "demonstrate", small)
    result = run("-b", made_bundle, "-o", tmp_path / "out", "--json", "--threads", 1)
    assert result.exit_code == 0, (result.output, result.exception)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    parts = [row["part"] for row in rows]
    assert parts == sorted(
        parts, key=["search", "example", "absent", "long text", "localize", "summary"].index
    )
    assert Path(rows[-1]["report"]).is_file()
    assert rows[-1]["first_hit_right"][1] == parts.count("search")
    assert rows[-1]["peak_inside"][1] == parts.count("localize")


def test_times_are_measured_and_reported(story: Story, page: Page) -> None:
    assert story.timings.index_rows == 2 * 25
    assert min(story.timings.index_s, story.timings.localize_s, *story.timings.query_ms) > 0
    assert len(story.timings.query_ms) == len(story.answers) + len(story.rankings) + 1
    assert f"{story.timings.query_p50_ms:.1f} ms" in page.text
