"""The fast mode: fusion against a loop over cells, where it looks, what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from large_scenes import patchwork
from numpy.typing import NDArray

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization import FastOptions, localize, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.fast_embedding import REACH, embed_pyramid
from lrsclip_rt.localization.fusion import centre_pixels
from lrsclip_rt.localization.hann import hann_means, spans_on_grid
from lrsclip_rt.localization.hann_fusion import hann_fusion
from lrsclip_rt.localization.interpolation import bilinear_at
from lrsclip_rt.localization.pipeline import localize_embedding
from lrsclip_rt.localization.presence import ODDS, presence_of
from lrsclip_rt.localization.pyramid import child_count, chosen_children, fast_scales, valid_shares
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.raster import Scene, scene_from_array
from lrsclip_rt.raster_pixels import ArrayPixels
from lrsclip_rt.tiles import Window, tile_grid

WHOLE = FastOptions(refine=0.0)


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


# Fusion


def fused_by_cells(
    windows: Sequence[Window],
    scores: NDArray[np.floating],
    weights: NDArray[np.floating],
    shape: tuple[int, int, int, int],
    reach: float,
) -> NDArray[np.float64]:
    """The slow twin: every window over the whole grid, straight from the definition."""
    height, width, rows, cols = shape
    y, x = centre_pixels(height, rows)[:, None] + 0.5, centre_pixels(width, cols)[None, :] + 0.5
    total, weight = np.zeros((rows, cols)), np.zeros((rows, cols))
    for window, score, own in zip(windows, scores, weights, strict=True):
        across = (x - window.col_off - window.width / 2) / (window.width * reach)
        down = (y - window.row_off - window.height / 2) / (window.height * reach)
        inside = (np.abs(across) < 0.5) & (np.abs(down) < 0.5)
        factor = np.where(inside, own * np.cos(np.pi * across) ** 2 * np.cos(np.pi * down) ** 2, 0.0)
        total += factor * score
        weight += factor
    with np.errstate(invalid="ignore"):
        return total / weight


@pytest.mark.parametrize("reach", [1.0, 1.5, 2.0])
def test_matrix_products_fuse_as_the_definition_does(reach: float) -> None:
    rng = np.random.default_rng(1)
    windows = tile_grid(300, 420, size=128, overlap=0.0) + tile_grid(300, 420, size=64, overlap=0.25)[::3]
    scores, weights = rng.normal(0.2, 0.1, len(windows)), rng.uniform(0.1, 4, len(windows))
    fusion = hann_fusion(windows, height=300, width=420, rows=75, cols=60, weights=weights, reach=reach)
    slow = fused_by_cells(windows, scores, weights, (300, 420, 75, 60), reach)
    np.testing.assert_allclose(fusion.fuse(scores), slow, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_windows_fuse_as_the_kernels_reference_does(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(20, 200)), data.draw(st.integers(20, 200))
    side = st.integers(4, 20)
    windows = []
    for _ in range(data.draw(st.integers(1, 12))):
        h, w = data.draw(side), data.draw(side)
        row_off, col_off = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
        windows.append(Window(col_off, row_off, w, h))
    scores = np.random.default_rng(len(windows)).normal(0, 1, (len(windows), 1))
    grid = spans_on_grid(windows, height=height, width=width, rows=20, cols=17)
    fusion = hann_fusion(windows, height=height, width=width, rows=20, cols=17)
    np.testing.assert_allclose(fusion.fuse(scores[:, 0]), hann_means(grid, scores)[0], atol=1e-4)


def test_windows_on_each_other_count_both() -> None:
    windows = [Window(0, 0, 20, 20), Window(0, 0, 20, 20)]
    fused = hann_fusion(windows, height=20, width=20, rows=5, cols=5).fuse(np.array([0.2, 0.6]))
    np.testing.assert_allclose(fused, 0.4, atol=1e-6)


def test_a_map_runs_smoothly_from_window_to_window() -> None:
    windows = tile_grid(1024, 1024, size=256, overlap=0.0)
    scores = np.random.default_rng(2).normal(0, 1, len(windows))
    steps = {}
    for reach in (1.0, REACH):
        fusion = hann_fusion(windows, height=1024, width=1024, rows=256, cols=256, reach=reach)
        steps[reach] = np.abs(np.diff(fusion.fuse(scores), axis=1)).max()
    assert steps[REACH] < 0.25 * steps[1.0]


def test_what_no_window_covers_has_no_value() -> None:
    fusion = hann_fusion([Window(10, 10, 20, 20)], height=100, width=100, rows=100, cols=100)
    fused = fusion.fuse(np.array([0.5]))
    assert np.isfinite(fused).sum() == 400
    assert np.isnan(hann_fusion([], height=9, width=9, rows=3, cols=3).fuse(np.empty(0))).all()


def test_windows_outside_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="leaves the scene"):
        hann_fusion([Window(90, 0, 20, 20)], height=100, width=100, rows=10, cols=10)
    with pytest.raises(InputError, match="reach"):
        hann_fusion([Window(0, 0, 20, 20)], height=100, width=100, rows=10, cols=10, reach=0.5)
    with pytest.raises(InputError, match="above 0"):
        hann_fusion([Window(0, 0, 20, 20)], height=99, width=99, rows=9, cols=9, weights=np.zeros(1))
    with pytest.raises(InputError, match="expected"):
        hann_fusion([Window(0, 0, 20, 20)], height=99, width=99, rows=9, cols=9).fuse(np.zeros(2))


def test_the_grid_is_read_in_proportion_and_missing_neighbours_do_not_spread() -> None:
    grid = np.array([[0.0, 1.0], [2.0, np.nan]], np.float32)
    values = bilinear_at(grid, np.arange(8), np.arange(8), height=8, width=8)
    assert values[0, 0] == 0.0
    assert values[1, 4] == pytest.approx(0.625)  # between the upper two, a hair above their row
    assert np.isnan(values[7, 7])
    assert np.isfinite(values[:4]).all()


# Where it looks


def test_a_few_texts_cost_at_most_half_of_the_protocol() -> None:
    for height, width in (
        (2000, 2000),
        (2001, 1749),
        (2709, 1577),
        (2825, 1777),
        (3000, 2000),
        (10001, 10000),
    ):
        coarse = len(tile_grid(height, width, size=256))
        fine = child_count(len(tile_grid(height, width, size=128)), 5, refine=None)
        assert coarse + fine <= len(selo_windows(height, width)) / 2


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 40), st.integers(0, 9))
def test_texts_take_turns_and_none_is_left_out(texts: int, windows: int, count: int, seed: int) -> None:
    ratings = np.random.default_rng(seed).normal(size=(texts, windows))
    chosen = chosen_children(ratings, count)
    assert len(chosen) == min(count, windows) == len(set(chosen))
    if count >= texts:
        assert set(ratings.argmax(axis=1)) <= set(chosen)


def test_finer_windows_lie_where_the_text_fits(model: Embedder) -> None:
    rows = model.embed_texts(["a harbour"])
    colours = np.array([[c * 255 // 4 for c in np.unravel_index(n, (5, 5, 5))] for n in range(125)], np.uint8)
    ranked = np.argsort(model.embed_images([np.full((8, 8, 3), c, np.uint8) for c in colours]) @ rows[0])
    array = np.empty((1024, 1024, 3), np.uint8)
    array[:] = colours[ranked[0]]
    array[512:768, 256:512] = colours[ranked[-1]]
    with scene_from_array(array) as scene:
        embedding = embed_pyramid(model, scene, rows, options=FastOptions(refine=1 / 16))
        (heat,) = localize(model, scene, ["a harbour"], fast=FastOptions(refine=1 / 16))
    fine = [window for window in embedding.windows if window.width == 128]
    assert len(fine) == 4
    assert {(w.col_off, w.row_off) for w in fine} == {(256, 512), (384, 512), (256, 640), (384, 640)}
    assert heat.peak is not None
    assert heat.peak == pytest.approx((384, 640), abs=16)
    assert heat[0].window.col_off >= 192


def test_every_window_is_scored_as_the_model_sees_it(model: Embedder) -> None:
    array = patchwork(600, 700)
    with scene_from_array(array) as scene:
        found = localize_scene(model, scene, ["a ship"], fast=FastOptions(refine=1.0))
    crops = [
        array[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width]
        for w in found.embedding.windows
    ]
    assert len(crops) == 9 + 30
    np.testing.assert_allclose(found.embedding.embeddings, model.embed_images(crops), atol=1e-5)
    slow = fused_by_cells(
        found.embedding.windows,
        found.embedding.scores(ask(model, ["a ship"], templates=True).rows)[:, 0],
        np.array([256**2 / w.width**2 for w in found.embedding.windows]),
        (600, 700, *found[0].scores.shape),
        REACH,
    )
    np.testing.assert_allclose(found[0].scores, slow, atol=1e-5)


def test_a_later_text_is_scored_on_what_is_embedded(model: Embedder) -> None:
    with scene_from_array(patchwork(700, 900)) as scene:
        found = localize_scene(model, scene, ["a ship"])
        later = localize_embedding(found.embedding, scene, ["a ship"], ask(model, ["a ship"], templates=True))
    np.testing.assert_array_equal(later[0].scores, found[0].scores)
    assert later.embedding is found.embedding


def test_progress_ends_at_the_number_of_windows(model: Embedder) -> None:
    calls: list[tuple[int, int]] = []
    with scene_from_array(patchwork(600, 600)) as scene:
        found = localize_scene(
            model, scene, ["a ship"], batch_size=4, progress=lambda done, total: calls.append((done, total))
        )
    assert calls[-1] == (len(found.embedding), len(found.embedding))
    assert len({total for _, total in calls}) == 1


def test_rotations_change_nothing_for_a_model_that_sees_only_colours(model: Embedder) -> None:
    plain = localize(model, patchwork(600, 600), ["a ship"])[0]
    turned = localize(model, patchwork(600, 600), ["a ship"], fast=FastOptions(rotations=True))[0]
    np.testing.assert_allclose(turned.scores, plain.scores, atol=1e-4)


def test_rotations_average_what_the_model_sees(tiny_bundle: Path) -> None:
    tiny = load(tiny_bundle)
    array = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    with scene_from_array(array) as scene:
        found = embed_pyramid(tiny, scene, tiny.embed_texts(["a"]), options=FastOptions(rotations=True))
    mean = tiny.embed_images([np.rot90(array, turn).copy() for turn in range(4)]).mean(axis=0)
    np.testing.assert_allclose(found.embeddings[0], mean / np.linalg.norm(mean), atol=1e-5)


# Scenes of any size and with holes


@pytest.mark.parametrize(("height", "width"), [(1, 1), (40, 30), (100, 900), (200, 200), (257, 129)])
def test_small_and_narrow_scenes_are_covered(model: Embedder, height: int, width: int) -> None:
    with scene_from_array(patchwork(height, width)) as scene:
        found = localize_scene(model, scene, ["a ship"])
    assert np.isfinite(found[0].scores).all()
    assert all(window.width == window.height for window in found.embedding.windows)


def test_a_crop_has_the_map_of_the_whole_inside(model: Embedder) -> None:
    array = patchwork(1024, 3072, seed=4)
    maps = []
    for part in (array, array[256:, 256:2560]):
        with scene_from_array(np.ascontiguousarray(part)) as scene:
            maps.append(localize_scene(model, scene, ["a ship"], fast=WHOLE)[0].scores)
    whole, crop = maps
    assert (whole.shape, crop.shape) == ((128, 384), (96, 288))  # cells of 8 px in both
    ours, theirs = whole[32:][32:64, 64:288], crop[32:64, 32:256]
    assert np.ptp(theirs) > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_missing_places_are_skipped_and_every_other_has_a_value(model: Embedder) -> None:
    array = patchwork(900, 1100)
    valid = np.ones((900, 1100), bool)
    valid[:, :300] = False
    valid[500:, 260:620] = False
    pixels = ArrayPixels(array, valid)
    with Scene(pixels) as scene:
        found = localize_scene(model, scene, ["a ship"])
        shown = scene.valid_map(*found[0].scores.shape)
    assert shown is not None
    np.testing.assert_array_equal(np.isfinite(found[0].scores), shown)
    assert all(
        valid[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width].any()
        for w in found.embedding.windows
    )
    assert len(found.embedding) < len(tile_grid(900, 1100, size=256)) + 4


def test_a_scene_that_shows_nothing_has_an_empty_map(model: Embedder) -> None:
    with Scene(ArrayPixels(patchwork(300, 300), np.zeros((300, 300), bool))) as scene:
        found = localize_scene(model, scene, ["a ship"])
    assert len(found.embedding) == 0
    assert np.isnan(found[0].scores).all()
    assert (found[0].peak, len(found[0])) == (None, 0)
    assert found[0].presence is not None
    assert not found[0].presence.present


def test_shares_count_the_cells_that_a_window_reaches_into() -> None:
    valid = np.zeros((10, 10), bool)
    valid[:5] = True
    windows = [Window(0, 0, 100, 100), Window(0, 50, 10, 10), Window(0, 45, 10, 10), Window(3, 0, 4, 4)]
    shares = valid_shares(windows, valid, height=100, width=100)
    np.testing.assert_allclose(shares, [0.5, 0.0, 0.5, 1.0])


def test_a_ground_size_sets_the_windows(model: Embedder) -> None:
    size = model.spec.image_size
    transform = (0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0)
    with scene_from_array(patchwork(600, 600), transform=transform, crs="EPSG:32650") as scene:
        assert scene.gsd_m == pytest.approx(0.5, rel=1e-2)
        scales = fast_scales(scene, FastOptions(gsd_m=1.0), image_size=size)
        assert scales == (4 * size, 2 * size)
        with pytest.raises(InputError, match="larger"):
            fast_scales(scene, FastOptions(gsd_m=1e-4), image_size=size)
    with (
        scene_from_array(patchwork(600, 600)) as scene,
        pytest.raises(InputError, match="no known ground size"),
    ):
        fast_scales(scene, FastOptions(gsd_m=1.0), image_size=size)


@pytest.mark.parametrize(
    "options",
    [{"scales": ()}, {"scales": (128, 256)}, {"overlap": 1.0}, {"refine": 1.5}, {"gsd_m": 0.0}],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        FastOptions(**options)  # type: ignore[arg-type]


# Whether it is there


def test_a_text_must_be_likelier_than_the_background_in_its_best_windows() -> None:
    scores = np.array([0.1, 0.5, 0.4, 0.3, 0.0, 0.2], np.float32)
    background = np.stack([scores - 0.4, scores[::-1] - 0.2], axis=1)
    judged = presence_of(scores, background, logit_scale=10.0)
    assert judged.score == pytest.approx(0.45)
    assert judged.bar == pytest.approx((0.05 + 0.25) / 2 + np.log(ODDS) / 10.0)
    assert judged.present
    # The sharper the model, the smaller the cosines that the same odds take.
    bars = [presence_of(scores, scores[:, None], logit_scale=scale).bar for scale in (10.0, 100.0)]
    np.testing.assert_allclose(bars, 0.45 + np.log(ODDS) / np.array([10.0, 100.0]), rtol=1e-6)
    assert not presence_of(scores, scores[:, None], logit_scale=100.0).present


def test_few_windows_count_all_and_none_show_nothing() -> None:
    two = np.array([0.2, 0.4], np.float32)
    assert presence_of(two, two[:, None] - 1.0, logit_scale=10.0).score == pytest.approx(0.3)
    none = presence_of(np.empty(0, np.float32), np.empty((0, 2), np.float32), logit_scale=10.0)
    assert (none.score, none.present) == (-1.0, False)


def test_the_threshold_of_archives_of_whole_images_does_not_judge_scenes(model: Embedder) -> None:
    array = patchwork(600, 600)
    judged = []
    for threshold in (-1.0, 1.0):
        manifest = replace(model.bundle.manifest, presence_threshold=threshold)
        (heat,) = localize(load(Bundle(model.bundle.path, manifest)), array, ["a ship"])
        judged.append(heat.presence)
    assert judged[0] is not None
    assert judged[0] == judged[1]


def test_a_real_harbour_shows_ships_and_no_stadium(data_dir: Path) -> None:
    ships, stadium = localize(
        load(threads=1),
        data_dir / "scenes" / "planet_longbeach_2.jpg",
        ["a harbour with many ships", "a football stadium"],
    )
    assert ships.presence is not None
    assert stadium.presence is not None
    assert (ships.presence.present, stadium.presence.present) == (True, False)


def test_phrases_are_asked_in_every_template_and_descriptions_as_they_are(model: Embedder) -> None:
    long = " ".join(["many"] * 21)
    rows = ask(model, ["a ship", long], templates=True).rows
    forms = model.embed_texts([form.replace("{}", "a ship") for form in model.spec.templates])
    mean = forms.mean(axis=0)
    np.testing.assert_allclose(rows[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(rows[1], model.embed_texts([long])[0])
