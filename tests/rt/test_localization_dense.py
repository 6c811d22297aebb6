"""The dense mode: patches of windows averaged by place against a loop over places, and what it refuses."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from large_scenes import patchwork
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.bundle_writer import BundleWriter, text_tower_copy
from lrsclip_rt.cli.info import command as info_command
from lrsclip_rt.cli.localize import command as localize_command
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import BundleError, InputError, ParityError
from lrsclip_rt.localization import localize, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.dense_embedding import embed_dense
from lrsclip_rt.localization.dense_windows import dense_edges, dense_windows, patch_lattice
from lrsclip_rt.localization.explaining import explain
from lrsclip_rt.localization.pipeline import localize_embedding
from lrsclip_rt.parity import Embeddings, compare
from lrsclip_rt.pixels import pixels_from_array
from lrsclip_rt.raster import Scene, scene_from_array
from lrsclip_rt.raster_pixels import ArrayPixels
from lrsclip_rt.tiles import Window


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


# Windows and places


@given(
    height=st.integers(4, 700),
    width=st.integers(4, 700),
    grid=st.sampled_from([(4, 4), (6, 6), (7, 7), (14, 14), (2, 3), (1, 1)]),
)
@settings(max_examples=60, deadline=None)
def test_places_cover_every_pixel_and_stay_inside(height: int, width: int, grid: tuple[int, int]) -> None:
    if min(height, width) < np.lcm(*grid):
        with pytest.raises(InputError, match="use the fast mode"):
            dense_edges(height, width, grid)
        return
    (edge,) = dense_edges(height, width, grid)
    windows = dense_windows(height, width, edge=edge, grid=grid)
    lattice = patch_lattice(windows, grid)
    cover = np.zeros((height, width), bool)
    for place in lattice.windows:
        assert place.row_off + place.height <= height
        assert place.col_off + place.width <= width
        cover[place.row_off : place.row_off + place.height, place.col_off : place.col_off + place.width] = 1
    assert cover.all()
    assert len(set(lattice.windows)) == len(lattice.windows)
    assert (lattice.weights > 0).all()


def test_patches_of_overlapping_windows_lie_on_each_other() -> None:
    windows = dense_windows(252 * 4, 252 * 4, edge=252, grid=(6, 6))
    lattice = patch_lattice(windows, (6, 6))
    assert len(windows) == 7 * 7
    assert len(lattice.windows) == 24 * 24


def test_weights_of_the_windows_over_a_place_add_up_to_one_inside_a_scene() -> None:
    windows = dense_windows(252 * 4, 252 * 4, edge=252, grid=(6, 6))
    lattice = patch_lattice(windows, (6, 6))
    totals = np.bincount(lattice.place_of.reshape(-1), np.tile(lattice.weights, len(windows)))
    np.testing.assert_allclose(totals.reshape(24, 24)[3:-3, 3:-3], 1.0, atol=1e-6)


def test_the_first_patch_of_a_window_shows_its_upper_left() -> None:
    lattice = patch_lattice([Window(10, 20, 60, 30)], (3, 2))
    assert [lattice.windows[place].as_list() for place in lattice.place_of[0]] == [
        [col_off, row_off, 30, 10] for row_off in (20, 30, 40) for col_off in (10, 40)
    ]


# Embeddings and maps


def averaged_by_place(
    model: Embedder, array: NDArray[np.uint8], edge: int
) -> dict[Window, NDArray[np.float64]]:
    """The slow twin: every window cut and embedded for itself, every patch added to its place."""
    height, width = array.shape[:2]
    (down, across), spec = model.spec.patch_grid, model.spec.pixel_spec
    sums: defaultdict[Window, NDArray[np.float64]] = defaultdict(lambda: np.zeros(model.dim))
    weights: defaultdict[Window, float] = defaultdict(float)
    for window in dense_windows(height, width, edge=edge, grid=(down, across)):
        row_off, col_off = window.row_off, window.col_off
        crop = np.ascontiguousarray(array[row_off : row_off + edge, col_off : col_off + edge])
        patches = model.dense_pixels(pixels_from_array(crop, spec)[None])[0].reshape(down, across, -1)
        for i in range(down):
            for j in range(across):
                place = Window(
                    col_off + j * edge // across,
                    row_off + i * edge // down,
                    edge // across,
                    edge // down,
                )
                weight = np.sin(np.pi * (i + 0.5) / down) ** 2 * np.sin(np.pi * (j + 0.5) / across) ** 2
                sums[place] += weight * patches[i, j]
                weights[place] += weight
    return {place: sums[place] / weights[place] for place in sums}


def test_every_place_is_the_weighted_mean_of_the_patches_that_show_it(tiny_bundle: Path) -> None:
    tiny = load(tiny_bundle)
    array = np.random.default_rng(3).integers(0, 256, (420, 530, 3), dtype=np.uint8)
    with scene_from_array(array) as scene:
        found = embed_dense(tiny, scene, batch_size=3)
    slow = averaged_by_place(tiny, array, 256)
    assert (found.mode, found.scales) == ("dense", (256,))
    assert set(found.windows) == set(slow)
    np.testing.assert_allclose(found.embeddings, [slow[place] for place in found.windows], atol=1e-5)
    assert np.ptp(found.embeddings, axis=0).max() > 0.01


def test_several_scales_are_embedded_one_after_the_other(model: Embedder) -> None:
    array = patchwork(600, 600)
    with scene_from_array(array) as scene:
        both = embed_dense(model, scene, scales=(256, 128))
        coarse, fine = (embed_dense(model, scene, scales=(scale,)) for scale in (256, 128))
    assert both.scales == (256, 128)
    assert both.windows == coarse.windows + fine.windows
    np.testing.assert_array_equal(both.embeddings, np.concatenate([coarse.embeddings, fine.embeddings]))


def test_a_place_smaller_than_a_window_is_found(model: Embedder) -> None:
    rows = ask(model, ["a harbour"], templates=True).rows
    colours = np.array([[c * 255 // 4 for c in np.unravel_index(n, (5, 5, 5))] for n in range(125)], np.uint8)
    ranked = np.argsort(model.embed_images([np.full((8, 8, 3), c, np.uint8) for c in colours]) @ rows[0])
    array = np.empty((1024, 1024, 3), np.uint8)
    array[:] = colours[ranked[0]]
    array[512:576, 320:384] = colours[ranked[-1]]
    (heat,) = localize(model, array, ["a harbour"], mode="dense")
    assert heat.mode == "dense"
    assert heat.peak == pytest.approx((352, 544), abs=32)
    assert heat.scores.shape == (256, 256)  # cells of 4 px
    row, col = np.unravel_index(np.nanargmax(heat.scores), heat.scores.shape)
    assert 512 <= row * 4 < 576
    assert 320 <= col * 4 < 384
    assert heat[0].window.width < 256


def test_a_crop_at_a_multiple_of_the_stride_has_the_map_of_the_whole_inside(model: Embedder) -> None:
    array = patchwork(1024, 3072, seed=4)
    maps = []
    for part in (array, array[256:, 256:2560]):
        with scene_from_array(np.ascontiguousarray(part)) as scene:
            maps.append(localize_scene(model, scene, ["a ship"], mode="dense")[0].scores)
    whole, crop = maps
    assert (whole.shape, crop.shape) == ((128, 384), (96, 288))  # cells of 8 px in both
    ours, theirs = whole[32:][32:64, 64:288], crop[32:64, 32:256]
    assert np.ptp(theirs) > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (40, 30), (100, 900), (257, 129)])
def test_small_and_narrow_scenes_are_covered(model: Embedder, height: int, width: int) -> None:
    with scene_from_array(patchwork(height, width)) as scene:
        found = localize_scene(model, scene, ["a ship"], mode="dense")
    assert np.isfinite(found[0].scores).all()


def test_missing_places_have_no_value_and_every_other_has_one(model: Embedder) -> None:
    valid = np.ones((900, 1100), bool)
    valid[:, :300] = False
    valid[500:, 260:620] = False
    with Scene(ArrayPixels(patchwork(900, 1100), valid)) as scene:
        found = localize_scene(model, scene, ["a ship"], mode="dense")
        shown = scene.valid_map(*found[0].scores.shape)
    assert shown is not None
    np.testing.assert_array_equal(np.isfinite(found[0].scores), shown)
    assert all(
        valid[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width].any()
        for w in found.embedding.windows
    )


def test_a_scene_that_shows_nothing_has_an_empty_map(model: Embedder) -> None:
    with Scene(ArrayPixels(patchwork(300, 300), np.zeros((300, 300), bool))) as scene:
        found = localize_scene(model, scene, ["a ship"], mode="dense")
    assert len(found.embedding) == 0
    assert np.isnan(found[0].scores).all()
    assert found[0].peak is None


def test_progress_counts_windows(model: Embedder) -> None:
    calls: list[tuple[int, int]] = []
    with scene_from_array(patchwork(600, 600)) as scene:
        embed_dense(model, scene, batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (16, 16)
    assert {total for _, total in calls} == {16}


def test_a_later_text_and_the_sentences_of_a_description_need_no_window(model: Embedder) -> None:
    sentences = ["A ship lies there.", "The sea is green."]
    with scene_from_array(patchwork(600, 600)) as scene:
        found = localize_scene(model, scene, sentences, mode="dense")
        asked = ask(model, sentences, templates=True)
        later = localize_embedding(found.embedding, scene, sentences, asked)
        explanation = explain(found, scene, " ".join(sentences))
    np.testing.assert_array_equal(later[1].scores, found[1].scores)
    assert len(explanation.z_at_best) == 2


# What it refuses


def test_a_bundle_without_a_dense_graph_is_refused_with_what_it_has(
    made_bundle: Path, tmp_path: Path
) -> None:
    texts = text_tower_copy(Bundle.open(made_bundle), tmp_path / "texts")
    with pytest.raises(BundleError, match=r"has no dense graph at fp32; its towers there: text"):
        localize(load(texts), patchwork(300, 300), ["a ship"], mode="dense")


def test_patches_below_their_gate_are_refused(made_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(made_bundle)
    rows = np.eye(4, 16, dtype=np.float32)
    patches = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    report = compare(Embeddings(rows, rows, patches), Embeddings(rows, rows, -patches), precision="fp32")
    assert report.dense_passed is False
    with BundleWriter.extending(bundle, tmp_path / "bundle") as writer:
        writer.add_precision("fp32", files=bundle.record("fp32").files, parity=report)
        worse = writer.finish()
    with pytest.raises(ParityError, match=r"the patch embeddings of .* at fp32 fell below their gate"):
        localize(load(worse), patchwork(300, 300), ["a ship"], mode="dense")


def test_a_scene_with_fewer_pixels_than_patches_is_refused(model: Embedder) -> None:
    with pytest.raises(InputError, match="fewer pixels than the model has patches, 4 x 4; use the fast mode"):
        localize(model, patchwork(3, 50), ["a ship"], mode="dense")


def test_a_model_without_patches_is_refused(model: Embedder) -> None:
    class OnlyImages:
        bundle, spec = model.bundle, model.spec
        embed_texts, stream_images = model.embed_texts, model.stream_images

    with pytest.raises(InputError, match="embeds no patches"):
        localize(OnlyImages(), patchwork(300, 300), ["a ship"], mode="dense")


# The command line


def test_the_command_writes_the_same_files_as_for_the_fast_mode(made_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="rasterio writes the maps")
    Image.fromarray(patchwork(600, 700)).save(tmp_path / "scene.png")
    arguments = [str(tmp_path / "scene.png"), "a ship", "--mode", "dense", "-b", str(made_bundle), "--json"]
    result = CliRunner().invoke(localize_command, [*arguments, "-o", str(tmp_path / "maps")])
    assert result.exit_code == 0, result.output
    assert {json.loads(line)["text"] for line in result.stdout.splitlines()} == {"a ship"}
    written = {path.name for path in (tmp_path / "maps").iterdir()}
    assert written == {"01-heat.tif", "01-overlay.png", "01-regions.geojson"}


@pytest.mark.parametrize("option", [["--refine", "0.5"], ["--rotations"], ["--gsd", "2"]])
def test_options_of_the_fast_mode_are_refused(made_bundle: Path, option: list[str]) -> None:
    arguments = ["scene.png", "a ship", "--mode", "dense", "-b", str(made_bundle), *option]
    result = CliRunner().invoke(localize_command, arguments)
    assert result.exit_code == 2
    assert "belong to --mode fast" in result.output


def test_info_names_the_recipe_of_the_patches(made_bundle: Path) -> None:
    result = CliRunner().invoke(info_command, ["-b", str(made_bundle), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bundle"]["patches"] == {"grid": [4, 4], "recipe": "last block"}
