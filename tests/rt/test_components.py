"""Connected areas, held against scipy on random maps."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.components import label_components


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.4, 0.6, 0.9])
def test_labels_equal_those_of_scipy(density: float, diagonal: bool) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(int(density * 100) + diagonal)
    for shape in [(1, 1), (1, 40), (40, 1), (37, 53), (120, 64)]:
        mask = rng.random(shape) < density
        labels, count = label_components(mask, diagonal=diagonal)
        expected, expected_count = ndimage.label(mask, np.ones((3, 3)) if diagonal else None)
        assert count == expected_count
        # The numbers may differ, the partition may not.
        pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(expected))


def test_a_long_winding_band_is_one_area() -> None:
    mask = np.zeros((41, 30), dtype=bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    assert label_components(mask)[1] == 1
    mask[20, 15] = False
    assert label_components(mask)[1] == 2


def test_an_empty_map_has_no_areas() -> None:
    labels, count = label_components(np.zeros((4, 5), dtype=bool))
    assert count == 0
    assert not labels.any()
