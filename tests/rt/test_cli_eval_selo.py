"""`lrsclip eval selo`: from a folder of scenes to scores, pictures and named failures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lrsclip_rt.cli.eval import command
from lrsclip_rt.cli.eval_selo import selo
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization import localize_scene
from lrsclip_rt.localization.pipeline import MODES
from lrsclip_rt.localization.selo_evaluation import levels_from_heatmap
from lrsclip_rt.localization.selo_map import selo_map
from lrsclip_rt.localization.selo_metrics import score_levels
from lrsclip_rt.raster import open_scene

CAPTIONS = ("a harbour with many ships", "white storage tanks", "a harbour with many ships")
BOX = [[40, 40], [200.7, 40], [200.7, 180], [40, 180]]


def write_scene(path: Path, seed: int, shape=(300, 420)) -> None:
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    pixels = np.kron(blocks, np.ones((100, 100, 1), np.uint8))[: shape[0], : shape[1]]
    Image.fromarray(pixels).save(path)


def entries():
    scenes = ("a.png", "a.png", "b.png")
    return [
        {"caption": caption, "jpg_name": scene, "points": [BOX]}
        for caption, scene in zip(CAPTIONS, scenes, strict=True)
    ]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two scenes of coloured blocks, three queries."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    write_scene(folder / "a.png", 1)
    write_scene(folder / "b.png", 2)
    annotate(folder, entries())
    return folder


def annotate(folder: Path, value, name="anno.json") -> Path:
    (folder / name).write_text(json.dumps(value))
    return folder / name


def run(*arguments, status=0):
    result = CliRunner().invoke(command, ["selo", *(str(argument) for argument in arguments)])
    assert result.exit_code == status, result.output + str(result.exception)
    return result


def test_the_scores_are_those_of_the_maps_of_the_model(scenes, made_bundle, cache_home):
    record = json.loads(run(scenes, "-b", made_bundle, "--json").stdout)
    expected = []
    for name, captions in (("a.png", CAPTIONS[:2]), ("b.png", CAPTIONS[2:])):
        with open_scene(scenes / name) as scene:
            found = localize_scene(load(made_bundle), scene, captions, mode="selo")
        outline = tuple((float(col), float(row)) for col, row in BOX)
        expected += [score_levels(selo_map(found.cells, index), [outline]) for index in range(len(captions))]
    for key in ("rsu", "ras", "rda", "rmi", "roc_auc"):
        values = [getattr(scores, key) for scores in expected]
        assert [row[key] for row in record["queries"]] == pytest.approx(values)
        assert record[key] == pytest.approx(np.mean(values))
    assert [row["caption"] for row in record["queries"]] == list(CAPTIONS)
    assert record["rmi_ci95"][0] <= record["rmi"] <= record["rmi_ci95"][1]
    assert record["roc_auc_ci95"][0] <= record["roc_auc"] <= record["roc_auc_ci95"][1]
    assert (record["scenes"], record["failed"], record["mode"], record["mosaic"]) == (2, 0, "selo", None)
    assert record["annotations"].endswith("anno.json")


def test_the_modes_offered_are_those_of_localization():
    (option,) = [option for option in selo.params if option.name == "mode"]
    assert tuple(option.type.choices) == MODES


def test_what_cannot_be_scored_is_listed_and_the_rest_goes_on(scenes, made_bundle, cache_home):
    (scenes / "broken.png").write_bytes(b"not an image")
    outside = [[900, 40], [950, 40], [950, 90]]
    bad = [
        {"caption": " ", "jpg_name": "a.png", "points": [BOX]},
        {"caption": "a pier", "jpg_name": "a.png", "points": [BOX[:2]]},
        {"caption": "a pier", "jpg_name": "missing.png", "points": [BOX]},
        {"caption": "a pier", "jpg_name": "broken.png", "points": [BOX]},
        {"caption": "a pier", "jpg_name": "a.png", "points": [BOX, outside]},
    ]
    annotate(scenes, [*bad, *entries()])
    result = run(scenes, "-b", made_bundle, status=1)
    record = json.loads(result.stdout)
    assert [row["caption"] for row in record["queries"]] == list(CAPTIONS)
    assert record["failed"] == 5
    for said in (
        "failed: query 0: caption is ' '",
        "failed: query 1: polygon 0 is 2 points",
        "missing.png: ",
        "is missing; 1 queries of it were left out",
        "broken.png",
        "failed: query 4 (a.png): polygon 1 spans columns 900 to 950",
        "5 input(s) failed",
    ):
        assert said in result.stderr


def test_without_any_query_left_it_is_an_error(scenes, made_bundle, cache_home):
    for path in scenes.glob("*.png"):
        path.unlink()
    result = CliRunner().invoke(command, ["selo", str(scenes), "-b", str(made_bundle)])
    assert isinstance(result.exception, InputError)
    assert "no query of" in str(result.exception)
    assert "failed: a.png" in result.stderr


def test_a_scene_of_one_colour_has_a_constant_map_and_is_named(scenes, made_bundle, cache_home):
    Image.new("RGB", (200, 220), (9, 90, 120)).save(scenes / "b.png")  # below 256 px: one window
    result = run(scenes, "-b", made_bundle)
    row = json.loads(result.stdout)["queries"][2]
    assert (row["constant_map"], row["rmi"], row["roc_auc"]) == (True, 0, 0.5)
    assert "query 2 (b.png): the map is constant" in result.stderr


def test_several_annotation_files_need_a_choice(scenes, made_bundle, cache_home):
    other = annotate(scenes, entries()[:1], "other.json")
    result = CliRunner().invoke(command, ["selo", str(scenes), "-b", str(made_bundle)])
    assert "2 annotation files: anno.json, other.json" in str(result.exception)
    record = json.loads(run(scenes, "-b", made_bundle, "--annotations", other).stdout)
    assert len(record["queries"]) == 1


def test_a_picture_of_each_query_is_written_and_never_over_others(scenes, made_bundle, tmp_path, cache_home):
    out = tmp_path / "pictures"
    run(scenes, "-b", made_bundle, "--plot-dir", out)
    assert sorted(path.name for path in out.iterdir()) == ["000-a.png", "001-a.png", "002-b.png"]
    again = CliRunner().invoke(command, ["selo", str(scenes), "-b", str(made_bundle), "--plot-dir", str(out)])
    assert "pass --overwrite" in str(again.exception)
    run(scenes, "-b", made_bundle, "--plot-dir", out, "--overwrite")


def test_the_cells_of_a_mosaic_are_ranked_beside(scenes, made_bundle, cache_home):
    cells = [
        {"window": [col, row, 105, 100], "class": ("StorageTanks", "Port")[(col + row) // 100 % 2]}
        for row in (0, 100, 200)
        for col in (0, 105, 210, 315)
    ]
    truth = annotate(scenes, {"cells": cells}, "b.json")
    mosaic = json.loads(run(scenes, "-b", made_bundle, "--mosaic", truth).stdout)["mosaic"]
    assert list(mosaic["per_class"]) == ["Port", "StorageTanks"]
    assert mosaic["map"] == pytest.approx(np.mean(list(mosaic["per_class"].values())))
    assert mosaic["chance"] == 0.5
    assert (mosaic["template"], mosaic["cells"]) == ("a satellite photo of {}.", 12)


def test_a_mosaic_without_its_scene_is_listed(scenes, made_bundle, cache_home):
    cells = [{"window": [0, 0, 9, 9], "class": "Port"}, {"window": [9, 0, 9, 9], "class": "Beach"}]
    truth = annotate(scenes, {"cells": cells}, "nowhere.json")
    result = run(scenes, "-b", made_bundle, "--mosaic", truth, status=1)
    assert json.loads(result.stdout)["mosaic"] is None
    assert "needs its scene beside it" in result.stderr


def test_a_terminal_gets_a_row_a_query_and_the_mean(scenes, made_bundle, cache_home, monkeypatch):
    monkeypatch.setattr("lrsclip_rt.cli.output.wants_json", lambda as_json: as_json)
    monkeypatch.setattr("lrsclip_rt.cli.eval_selo.wants_json", lambda as_json: as_json)
    shown = run(scenes, "-b", made_bundle).stdout
    assert "Rmi" in shown
    assert "mean" in shown
    assert shown.count("b.png") == 1
    assert shown.count("a.png") == 2


def test_hand_drawn_queries_of_real_scenes_are_found_better_than_by_chance(data_dir, tmp_path):
    folder = data_dir / "scenes"
    few = [
        record
        for record in json.loads((folder / "anno_hand.json").read_text())
        if record["jpg_name"].startswith("oam_")
    ]
    record = json.loads(run(folder, "--annotations", annotate(tmp_path, few)).stdout)
    assert len(record["queries"]) == 3
    assert record["roc_auc"] > 0.7


@pytest.mark.slow
def test_all_hand_drawn_queries_and_the_mosaic_of_real_scenes(data_dir):
    folder = data_dir / "scenes"
    record = json.loads(run(folder, "--mosaic", folder / "mosaic_val_1800.json").stdout)
    assert len(record["queries"]) == 18
    assert record["roc_auc"] > 0.7  # a random map has 0.48
    assert record["mosaic"]["map"] > 2 * record["mosaic"]["chance"]


def test_the_fast_mode_is_scored_on_its_own_map(scenes, made_bundle, cache_home):
    record = json.loads(run(scenes, "-b", made_bundle, "--mode", "fast", "--json").stdout)
    with open_scene(scenes / "a.png") as scene:
        found = localize_scene(load(made_bundle), scene, CAPTIONS[:2])
    outline = tuple((float(col), float(row)) for col, row in BOX)
    scores = [score_levels(levels_from_heatmap(heat), [outline]) for heat in found.heatmaps]
    rows = [row["rmi"] for row in record["queries"][:2]]
    assert rows == pytest.approx([score.rmi for score in scores])
    assert record["mode"] == "fast"
    assert record["windows"]["a.png"] == len(found.embedding)


@pytest.mark.slow
def test_the_fast_mode_finds_more_than_the_protocol_for_half_its_windows(data_dir):
    records = {}
    for mode in ("fast", "selo"):
        truth = data_dir / "scenes" / "mosaic_val_1800.json"
        annotations = data_dir / "scenes" / "anno_hand.json"
        arguments = ["--annotations", annotations, "--mosaic", truth, "--mode", mode, "--json"]
        records[mode] = json.loads(run(data_dir / "scenes", *arguments).stdout)
    fast, protocol = records["fast"], records["selo"]
    assert fast["roc_auc"] >= protocol["roc_auc"] + 0.03
    assert fast["mosaic"]["map"] >= 0.60
    assert fast["windows"]["mosaic_val_1800.tif"] <= 400
    large = [name for name in fast["windows"] if name.startswith(("planet_sfbay", "planet_long", "oam"))]
    assert len(large) == 4
    for name in large:
        assert fast["windows"][name] <= protocol["windows"][name] / 2
