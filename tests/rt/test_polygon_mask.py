"""Polygons to masks: by hand, against a plain inside test, and pixel for pixel against OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.polygon_mask import polygon_mask


def drawn(*rings, height, width):
    mask = polygon_mask([np.array(ring) for ring in rings], height, width)
    return ["".join(".#"[value] for value in row) for row in mask.astype(int)]


def test_a_square_holds_both_of_its_borders():
    assert drawn([[1, 1], [3, 1], [3, 2], [1, 2]], height=4, width=5) == [".....", ".###.", ".###.", "....."]


def test_a_triangle_is_filled_between_its_sides():
    # Left side: column 0; the long side goes one column right for each row down.
    assert drawn([[0, 0], [3, 3], [0, 3]], height=4, width=4) == ["#...", "##..", "###.", "####"]


def test_a_ring_inside_another_is_a_hole_whose_border_is_drawn():
    rows = drawn([[0, 0], [6, 0], [6, 6], [0, 6]], [[1, 1], [5, 1], [5, 5], [1, 5]], height=7, width=7)
    assert rows[0] == rows[1] == rows[5] == rows[6] == "#######"
    assert rows[2] == rows[3] == rows[4] == "##...##"


def test_a_ring_drawn_twice_leaves_its_border_alone():
    square = [[0, 0], [4, 0], [4, 4], [0, 4]]
    assert drawn(square, square, height=5, width=5) == ["#####", "#...#", "#...#", "#...#", "#####"]


def test_what_lies_outside_the_canvas_is_cut_off():
    rows = drawn([[-10, -10], [2, -10], [2, 1], [-10, 1]], height=4, width=5)
    assert rows == ["###..", "###..", ".....", "....."]
    assert not polygon_mask([np.array([[9, 9], [12, 9], [12, 12]])], 4, 5).any()


def test_a_ring_without_vertices_and_no_ring_at_all_are_empty():
    assert not polygon_mask([np.empty((0, 2), np.int64)], 3, 3).any()
    assert not polygon_mask([], 3, 3).any()


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        (np.array([[0.5, 1.0]]), "whole numbers"),
        (np.array([1, 2, 3]), "expected"),
        (np.array([[0, 1 << 30]]), "px out"),
    ],
)
def test_vertices_that_cannot_be_drawn_are_named(ring, message):
    with pytest.raises(InputError, match=message):
        polygon_mask([ring], 4, 4)


RINGS = st.lists(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=8),
    min_size=1,
    max_size=3,
)


def inside(rings, col, row):
    """Crossings of a ray to the right, one side at a time."""
    crossings = 0
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
            if (y1 <= row) != (y2 <= row):
                crossings += x1 + (row - y1) * (x2 - x1) / (y2 - y1) > col
    return crossings % 2 == 1


def distance_to_border(rings, col, row):
    nearest = np.inf
    for ring in rings:
        for a, b in zip(np.array(ring, float), np.array(ring[1:] + ring[:1], float), strict=True):
            length = float((b - a) @ (b - a))
            share = np.clip((np.array([col, row]) - a) @ (b - a) / length, 0, 1) if length else 0.0
            nearest = min(nearest, float(np.hypot(*(a + share * (b - a) - [col, row]))))
    return nearest


@settings(max_examples=15, deadline=None)
@given(RINGS, st.integers(1, 16), st.integers(1, 16))
def test_off_the_border_the_mask_is_a_plain_inside_test(rings, height, width):
    rings = [[(min(max(x, 0), width - 1), min(max(y, 0), height - 1)) for x, y in ring] for ring in rings]
    mask = polygon_mask([np.array(ring) for ring in rings], height, width)
    for row in range(height):
        for col in range(width):
            if distance_to_border(rings, col, row) > 1:
                assert mask[row, col] == inside(rings, col, row)


@pytest.mark.parametrize("reach", [0, 40], ids=["inside", "beyond the canvas"])
def test_it_equals_opencv_pixel_for_pixel(reach):
    cv2 = pytest.importorskip("cv2", minversion="4.11", reason="the reference")
    generator = np.random.default_rng(3)
    for _ in range(400):
        height, width = generator.integers(1, 60, 2).tolist()
        rings = [
            generator.integers(-reach, (width + reach, height + reach), (generator.integers(1, 9), 2))
            for _ in range(generator.integers(1, 4))
        ]
        expected = np.zeros((height, width), np.uint8)
        cv2.fillPoly(expected, [ring.astype(np.int32) for ring in rings], 1)
        np.testing.assert_array_equal(polygon_mask(rings, height, width), expected.astype(bool), str(rings))


def test_large_polygons_equal_opencv_too():
    cv2 = pytest.importorskip("cv2", minversion="4.11", reason="the reference")
    generator = np.random.default_rng(11)
    for _ in range(8):
        arrays = [generator.integers(-3000, 9000, (generator.integers(3, 18), 2)).astype(np.int32)]
        expected = np.zeros((700, 5200), np.uint8)
        cv2.fillPoly(expected, arrays, 1)
        np.testing.assert_array_equal(polygon_mask(arrays, 700, 5200), expected.astype(bool))
