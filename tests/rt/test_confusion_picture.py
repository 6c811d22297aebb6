"""The picture of a confusion matrix: its colours are the shares, for few and for many classes."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.confusion_picture import EMPTY, render_confusion
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.colours import coloured


def has_colour(picture, colour):
    return (np.asarray(picture) == np.asarray(colour, np.uint8)).all(axis=2).sum()


def test_cells_have_the_colour_of_their_share_of_the_row():
    matrix = np.array([[30, 10], [0, 1]])
    picture = render_confusion(matrix, ["forest", "sea"], title="A set")
    for share in (0.75, 0.25):
        assert has_colour(picture, coloured(np.array([[share]]))[0, 0]) > 3000
    assert has_colour(picture, EMPTY) > 3000
    # A row of one image is as bright as one of forty.
    assert has_colour(picture, coloured(np.array([[1.0]]))[0, 0]) > 3000


@pytest.mark.parametrize("count", [1, 5, 45, 120])
def test_any_number_of_classes_fits(count):
    matrix = np.random.default_rng(0).integers(0, 2000, (count, count))
    names = [f"class number {index} with a rather long name" for index in range(count)]
    picture = render_confusion(matrix, names, title="T " * 200, facts="top-1")
    assert max(picture.size) < 3000


def test_a_class_without_images_has_no_share():
    picture = render_confusion(np.array([[0, 0], [1, 3]]), ["a", "b"], title="T")
    assert picture.size[0] >= 300


def test_a_matrix_of_another_size_is_named():
    with pytest.raises(InputError, match=r"expected \(2, 2\)"):
        render_confusion(np.zeros((3, 3), int), ["a", "b"], title="T")
