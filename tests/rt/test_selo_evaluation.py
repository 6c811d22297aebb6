"""From heat maps to the scores of queries, their means, and the cells of a mosaic."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization import Heatmap, localize_scene
from lrsclip_rt.localization.selo_annotations import MosaicTruth, SeloQuery
from lrsclip_rt.localization.selo_evaluation import (
    QueryResult,
    class_phrase,
    levels_from_heatmap,
    mosaic_precisions,
    refused_queries,
    scene_of_mosaic,
    scored_queries,
    summary_of,
)
from lrsclip_rt.localization.selo_map import selo_map
from lrsclip_rt.localization.selo_metrics import SeloScores, score_levels
from lrsclip_rt.localization.selo_pictures import CIRCLE, HIT, MISS, OUTLINE, render_query
from lrsclip_rt.ranking_scores import average_precision
from lrsclip_rt.raster import scene_from_array
from lrsclip_rt.tiles import Window

SQUARE = ((20.0, 20.0), (120.0, 20.0), (120.0, 120.0), (20.0, 120.0))


@pytest.fixture
def pixels():
    blocks = np.random.default_rng(6).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return np.kron(blocks, np.ones((128, 128, 1), np.uint8))[:330, :470]


def query(number=0, outlines=(SQUARE,), caption="a pier"):
    return SeloQuery(number, "a.png", caption, outlines)


def scores(rsu=0.5, ras=0.5, rda=0.5, auc=0.5):
    return SeloScores(rsu, ras, rda, auc, (), (), False)


def heatmap(values):
    return Heatmap(
        text="a",
        mode="fast",
        scales=(256,),
        scores=np.array(values, np.float32),
        transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        crs=None,
        height=4,
        width=6,
        score_range=(float(np.nanmin(values)), float(np.nanmax(values))),
        z=0.0,
        peak=None,
        regions=(),
    )


def test_every_query_is_scored_on_the_published_map(pixels, made_bundle):
    queries = [query(0), query(1, caption="boats beside a quay"), query(2, caption="a forest")]
    model = load(made_bundle)
    with scene_from_array(pixels) as scene:
        found = localize_scene(model, scene, [one.caption for one in queries], mode="selo")
    results = list(scored_queries(found, queries))
    assert [result.query for result in results] == queries
    for index, result in enumerate(results):
        levels = selo_map(found.cells, index)
        np.testing.assert_array_equal(result.levels, levels)
        assert result.scores == score_levels(levels, [SQUARE])
    assert len({result.scores.rmi for result in results}) > 1
    with pytest.raises(InputError, match="3 heat maps and 2 queries"):
        list(scored_queries(found, queries[:2]))


def test_a_heat_map_of_another_mode_is_stretched_to_all_levels():
    levels = levels_from_heatmap(heatmap([[0.1, 0.2, 0.3], [np.nan, 0.3, 0.1]]))
    # 2 x 3 cells over 4 x 6 px; the middle value is 255 / 2, cut; what is missing is 0.
    row, below = [0, 0, 127, 127, 255, 255], [0, 0, 255, 255, 0, 0]
    assert levels.tolist() == [row, row, below, below]
    assert levels_from_heatmap(heatmap([[0.5, 0.5], [0.5, 0.5]])).max() == 0


def test_queries_outside_the_scene_are_refused_by_name():
    outside = query(7, outlines=(SQUARE, ((900.0, 0.0), (950.0, 0.0), (950.0, 9.0))))
    ((name, reason),) = refused_queries([query(3), outside], 330, 470)
    assert name == "query 7 (a.png)"
    assert "polygon 1 spans columns 900 to 950" in reason


def test_the_summary_is_the_plain_mean_over_the_queries():
    summary = summary_of(
        [scores(0.2, 0.4, 1.0, 0.9), scores(0.6, 0.8, 0.0, None), scores(1.0, 0.0, 0.5, 0.7)]
    )
    assert (summary.rsu, summary.ras, summary.rda) == pytest.approx((0.6, 0.4, 0.5))
    assert summary.rmi == pytest.approx(0.4 * 0.6 + 0.35 * 0.6 + 0.25 * 0.5)
    assert summary.roc_auc == pytest.approx(0.8)  # the query without a curve is left out
    assert summary.queries == 3
    record = summary.as_dict()
    assert record["rmi_ci95"][0] < record["rmi"] < record["rmi_ci95"][1]
    assert record["roc_auc_ci95"][0] <= record["roc_auc"] <= record["roc_auc_ci95"][1]
    assert summary_of([scores(auc=None)]).as_dict()["roc_auc_ci95"] is None
    with pytest.raises(InputError, match="no query"):
        summary_of([])


def test_cells_of_a_class_are_ranked_by_the_mean_of_its_map(pixels, made_bundle, tmp_path):
    windows = tuple(Window(col, row, 60, 55) for row in range(0, 330, 55) for col in range(0, 420, 60))
    classes = tuple(("Port", "Beach", "Forest")[number % 3] for number in range(len(windows)))
    truth = MosaicTruth(tmp_path / "m.json", windows, classes)
    with scene_from_array(pixels) as scene:
        found = localize_scene(load(made_bundle), scene, ["a beach", "a forest", "a port"], mode="selo")
    precisions = mosaic_precisions(found, truth)
    assert list(precisions) == ["Beach", "Forest", "Port"]
    for index, name in enumerate(truth.names):
        levels = selo_map(found.cells, index).astype(np.float64)
        means = [np.mean(levels[w.row_off :, w.col_off :][: w.height, : w.width]) for w in windows]
        own = np.array([one == name for one in classes])
        assert precisions[name] == pytest.approx(average_precision(np.array(means), own))
    wide = MosaicTruth(truth.path, (*windows, Window(420, 0, 60, 55)), (*classes, "Port"))
    with pytest.raises(InputError, match="leaves the scene of 330 x 470 px"):
        mosaic_precisions(found, wide)
    with pytest.raises(InputError, match="3 heat maps for 2 classes"):
        mosaic_precisions(found, MosaicTruth(truth.path, windows[:2], classes[:2]))


def test_the_scene_of_a_mosaic_lies_beside_its_truth(tmp_path):
    truth = MosaicTruth(tmp_path / "m.json", (Window(0, 0, 1, 1),), ("Port",))
    with pytest.raises(InputError, match="found none"):
        scene_of_mosaic(truth)
    (tmp_path / "m.tif").touch()
    assert scene_of_mosaic(truth) == tmp_path / "m.tif"
    (tmp_path / "m.png").touch()
    with pytest.raises(InputError, match=r"found m\.tif, m\.png"):
        scene_of_mosaic(truth)


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("Port", "port"),
        ("BaseballField", "baseball field"),
        ("river_lake", "river lake"),
        ("bare  land", "bare land"),
    ],
)
def test_a_class_name_becomes_words(name, phrase):
    assert class_phrase(name) == phrase


def test_the_picture_shows_outlines_circles_and_peaks(pixels):
    levels = np.zeros(pixels.shape[:2], np.uint8)
    levels[20:120, 20:120] = 255
    near = query(caption="a long query " * 30)
    far = query(outlines=(tuple((x + 300.0, y + 150.0) for x, y in SQUARE),))
    for asked, peak, absent in ((near, HIT, MISS), (far, MISS, HIT)):
        result = QueryResult(asked, score_levels(levels, asked.outlines), levels)
        picture = render_query(result, np.asarray(Image.fromarray(pixels).resize((940, 660))))
        body = np.asarray(picture)[:-60].astype(int)  # without the legend
        assert all(near_colour(body, colour) for colour in (OUTLINE, CIRCLE, peak))
        assert not near_colour(body, absent)
        assert picture.width == 940


def near_colour(body, colour):
    return bool((np.abs(body - np.array(colour)).max(axis=2) < 12).sum() > 20)


def test_a_row_of_the_output_holds_plain_values(pixels):
    levels = np.zeros(pixels.shape[:2], np.uint8)
    row = QueryResult(query(), score_levels(levels, [SQUARE]), levels).as_dict()
    assert json.loads(json.dumps(row)) == row
    assert row["constant_map"] is True
    assert list(row)[:2] == ["scene", "caption"]
