"""The indicators of semantic localization: on paper, word by word, and on real outlines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.selo_annotations import selo_annotations_from_file
from lrsclip_rt.localization.selo_metrics import (
    Circle,
    SeloScores,
    attention_shift,
    discrete_attention,
    outline_mask,
    region_circle,
    salient_area,
    score_levels,
)
from lrsclip_rt.localization.selo_peaks import peaks_from_levels

SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
"""Four pixels, the borders included."""


def histograms(levels, mask):
    inside = np.bincount(levels[mask], minlength=256)
    return inside, np.bincount(levels[~mask], minlength=256)


def points(*pairs):
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_salient_area_on_paper():
    mask = outline_mask([SQUARE], 4, 4)
    # 4 of 16 pixels, the map 1 everywhere: 4 / 12 * 12 / 4 = 1.
    flat = np.full((4, 4), 255, np.uint8)
    assert salient_area(*histograms(flat, mask)) == pytest.approx(1 - math.exp(-0.707))
    # Twice as bright inside, 102 against 51 of 255: 1.6 / 2.4 * 3 = 2.
    double = np.where(mask, 102, 51).astype(np.uint8)
    assert salient_area(*histograms(double, mask)) == pytest.approx(1 - math.exp(-1.414))
    # All of it inside: 4 / 1e-7 * 3, and the exponential is gone.
    assert salient_area(*histograms(np.where(mask, 255, 0).astype(np.uint8), mask)) == 1
    assert salient_area(*histograms(np.zeros((4, 4), np.uint8), mask)) == 0


def test_attention_shift_on_paper():
    circle = Circle(10, 10, 10)
    # One peak 5 px below the centre: g = 0.5, (e^1.5 - 1) / (e^3 - 1) = 3.4817 / 19.0855.
    assert attention_shift([circle], points((10, 15))) == pytest.approx(0.182426, abs=1e-6)
    # On the rim counts as inside, g = 1; beyond it the circle has no peak, also 1.
    assert attention_shift([circle], points((20, 10))) == pytest.approx(1)
    assert attention_shift([circle], points((21, 10))) == pytest.approx(1)
    assert attention_shift([circle], points((10, 10))) == 0
    rim_and_centre = attention_shift([circle], points((20, 10), (10, 10)))  # g = 0.5: the rim counts
    assert rim_and_centre == attention_shift([circle], points((10, 15)))
    # Peaks at 0 and 8 px: g = 0.4; another circle without one: mean 0.7.
    both = attention_shift([circle, Circle(90, 90, 5)], points((10, 10), (10, 18)))
    assert both == pytest.approx((math.exp(2.1) - 1) / (math.exp(3) - 1))
    assert attention_shift([circle], points()) == 1


def test_discrete_attention_on_paper():
    circle = Circle(10, 10, 10)
    assert discrete_attention([circle], points()) == 0
    assert discrete_attention([circle], points((40, 40))) == 0
    assert discrete_attention([circle], points((12, 10))) == 1
    assert discrete_attention([circle], points((20, 10))) == 1
    # Two peaks 2 px from their middle: 0.5 (1 - 0.2) + e^-2.
    assert discrete_attention([circle], points((10, 8), (10, 12))) == pytest.approx(0.4 + math.exp(-2))
    # Three on one place: 0.5 + e^-2.5; the mean with an empty circle is half of it.
    same = points((10, 8), (10, 8), (10, 8))
    assert discrete_attention([circle, Circle(90, 90, 5)], same) == pytest.approx((0.5 + math.exp(-2.5)) / 2)


def test_the_mean_indicator_weighs_the_three():
    scores = SeloScores(0.5, 0.2, 0.8, None, (), (), False)
    assert scores.rmi == pytest.approx(0.4 * 0.5 + 0.35 * 0.8 + 0.25 * 0.8)


def test_the_circle_cuts_its_centre_and_its_radius_to_whole_pixels():
    # Middle (3.5, 2.5) -> (3, 2); distances 3.6056, 4.4721, 5, 4.2426, mean 4.3301; times 1.5 is 6.495.
    outline = ((0.0, 0.0), (7.0, 0.0), (7.0, 5.0), (0.0, 5.0))
    assert region_circle(outline) == Circle(3, 2, 6)
    assert region_circle(((5.2, 5.2), (5.4, 5.2), (5.4, 5.4))).radius == 1  # never below a pixel


def test_vertices_are_cut_not_rounded():
    mask = outline_mask([((0.9, 0.9), (2.9, 0.9), (2.9, 1.9), (0.9, 1.9))], 5, 5)
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_a_map_that_shows_the_square_alone_scores_as_on_paper():
    levels = np.zeros((300, 300), np.uint8)
    levels[100:200, 100:200] = 255
    outline = ((100.0, 100.0), (199.0, 100.0), (199.0, 199.0), (100.0, 199.0))
    scores = score_levels(levels, [outline])
    # Centre int(149.5); the corners are 69.30, 70.00, 70.71 and 70.00 away, times 1.5 is 105.006.
    assert scores.circles == (Circle(149, 149, 105),)
    assert scores.peaks == ((152, 152),)
    assert scores.rsu == 1
    assert scores.rda == 1
    assert scores.ras == pytest.approx((math.exp(3 * math.hypot(3, 3) / 105) - 1) / (math.exp(3) - 1))
    assert scores.roc_auc == 1
    assert not scores.constant


def test_a_constant_map_points_nowhere():
    scores = score_levels(np.zeros((40, 50), np.uint8), [SQUARE])
    assert scores.constant
    assert (scores.rsu, scores.ras, scores.rda, scores.rmi) == (0, 1, 0, 0)
    assert scores.roc_auc == 0.5


def test_an_outline_around_the_whole_scene_has_no_roc_curve():
    scores = score_levels(np.full((8, 9), 3, np.uint8), [((0.0, 0.0), (8.0, 0.0), (8.0, 7.0), (0.0, 7.0))])
    assert scores.roc_auc is None
    assert scores.rsu == 0


@pytest.mark.parametrize(
    "outline",
    [
        ((50.0, 0.0), (60.0, 0.0), (60.0, 9.0)),
        ((0.0, 40.0), (9.0, 40.0), (9.0, 60.0)),
        ((-9.0, 0.0), (-2.0, 0.0), (-2.0, 9.0)),
        ((0.0, -9.0), (9.0, -9.0), (9.0, -1.0)),
    ],
)
def test_a_polygon_outside_the_scene_is_named(outline):
    with pytest.raises(InputError, match=r"polygon 1 spans columns .* outside the scene of 40 x 50 px"):
        outline_mask([SQUARE, outline], 40, 50)


def test_polygons_whose_box_alone_touches_the_scene_are_named():
    with pytest.raises(InputError, match="no polygon covers a pixel"):
        outline_mask([((-20.0, 5.0), (5.0, -20.0), (-20.0, -20.0))], 40, 50)


def slow_scores(levels, mask, circles, peaks):
    """The published formulas, one sum at a time over P = levels / 255."""
    values = levels.astype(np.float64) / 255
    s_in, s, m = float((values * mask).sum()), float(values.sum()), int(mask.sum())
    rsu = 1 - math.exp(-0.707 * (s_in / (s - s_in + 1e-7)) * ((mask.size - m) / m)) if s else 0.0
    gs, rdas = [], []
    for circle in circles:
        inside = [p for p in peaks if math.dist(p, (circle.col, circle.row)) <= circle.radius]
        offs = [math.dist(p, (circle.col, circle.row)) for p in inside]
        gs.append((sum(offs) / len(offs) if offs else circle.radius) / circle.radius)
        if len(inside) < 2:
            rdas.append(len(inside))
            continue
        middle = (sum(p[0] for p in inside) / len(inside), sum(p[1] for p in inside) / len(inside))
        spread = sum(math.dist(p, middle) for p in inside) / len(inside)
        rdas.append(0.5 * (1 - spread / circle.radius) + math.exp(-0.5 * (len(inside) + 2)))
    g = sum(gs) / len(gs)
    ras = (math.exp(3 * g) - 1) / (math.exp(3) - 1) if len(peaks) else 1.0
    wins = 0.0
    others = levels[~mask]
    for value in range(256):
        wins += (levels[mask] == value).sum() * ((others < value).sum() + 0.5 * (others == value).sum())
    auc = wins / (m * (mask.size - m))
    return rsu, ras, sum(rdas) / len(rdas), auc


@pytest.mark.parametrize("seed", range(4))
def test_the_scores_equal_the_definition_word_by_word(seed):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (3, 9)).astype(np.uint8)
    levels = np.kron(coarse, np.ones((40, 160), np.uint8))
    outlines = [
        tuple((float(x), float(y)) for x, y in generator.uniform((0, 0), (1440, 120), (4, 2)))
        for _ in range(2)
    ]
    scores = score_levels(levels, outlines)
    peaks = [tuple(peak) for peak in peaks_from_levels(levels).tolist()]
    mask = outline_mask(outlines, *levels.shape)
    expected = slow_scores(levels, mask, scores.circles, peaks)
    assert (scores.rsu, scores.ras, scores.rda, scores.roc_auc) == pytest.approx(expected, rel=1e-9)


def test_every_outline_of_the_real_queries_becomes_a_mask_and_circles(data_dir):
    annotated = selo_annotations_from_file(data_dir / "selo" / "anno.json")
    assert len(annotated.queries) == 59
    assert annotated.failures == ()
    assert sum(len(query.outlines) for query in annotated.queries) == 103
    for query in annotated.queries:
        corners = np.concatenate([np.array(outline) for outline in query.outlines])
        width, height = (corners.max(axis=0).astype(int) + 50).tolist()  # the images are not at hand
        mask = outline_mask(query.outlines, height, width)
        assert 0 < mask.sum() < mask.size
        for outline in query.outlines:
            circle = region_circle(outline)
            assert circle.radius > 10
            assert 0 <= circle.col < width
            assert 0 <= circle.row < height


def test_masks_of_the_real_queries_equal_those_of_opencv(data_dir):
    cv2 = pytest.importorskip("cv2", minversion="4.11", reason="the reference")
    for query in selo_annotations_from_file(data_dir / "selo" / "anno.json").queries:
        rings = [np.array(outline).astype(np.int32) for outline in query.outlines]
        width, height = (np.concatenate(rings).max(axis=0) - 40).tolist()  # some vertices lie outside
        expected = np.zeros((height, width))
        cv2.fillPoly(expected, rings, 1)
        np.testing.assert_array_equal(outline_mask(query.outlines, height, width), expected == 1)
