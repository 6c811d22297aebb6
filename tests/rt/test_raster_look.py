"""The look at a large file without overviews: block by block, and along its border first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lrsclip_rt.raster import Scene, open_scene
from lrsclip_rt.raster_gdal import GdalPixels, gdal_environment
from lrsclip_rt.raster_mask import collar_from_overview
from lrsclip_rt.raster_pixels import centres
from lrsclip_rt.tiles import Window

rasterio = pytest.importorskip("rasterio")

TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
STRIPS = {"blockysize": 8}


def written(path: Path, bands: NDArray[Any], **profile: Any) -> Path:
    count, height, width = bands.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=bands.dtype,
        crs="EPSG:32650",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 4_000_000),
        **{"photometric": "RGB", "compress": "deflate", **profile},
    ) as dataset:
        dataset.write(bands)
    return path


def noise(height: int, width: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(height * width).integers(20, 236, (3, height, width)).astype(dtype)


@pytest.mark.parametrize("profile", [TILED, STRIPS], ids=["tiled", "strips"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(700, 901), (1301, 640)])
def test_samples_are_those_of_gdal(
    tmp_path: Path, profile: dict[str, Any], dtype: Any, shape: tuple[int, int]
) -> None:
    path = written(tmp_path / "scene.tif", noise(*shape, dtype), **profile)
    window = Window(13, 29, shape[1] - 40, shape[0] - 31)
    pixels = GdalPixels(path, bands=None, nodata=None)
    try:
        for height, width in ((117, 203), (window.height - 1, window.width), (50, 60)):
            found = pixels.read(window, height, width, smooth=False)
            with gdal_environment(), rasterio.open(path) as dataset:
                part = rasterio.windows.Window(*window.as_list())
                expected = dataset.read([1, 2, 3], window=part, out_shape=(3, height, width))
            np.testing.assert_array_equal(found.bands, expected)
            assert found.valid is None or found.valid.all()
    finally:
        pixels.close()


def test_sampled_masks_belong_to_their_pixels(tmp_path: Path) -> None:
    bands = noise(500, 600)
    bands[:, 100:300, 200:400] = 7
    path = written(tmp_path / "scene.tif", bands, nodata=7, **TILED)
    pixels = GdalPixels(path, bands=None, nodata=None)
    try:
        rows, cols = centres(500, 90), centres(600, 110)
        block = pixels.sampled(rows, cols)
    finally:
        pixels.close()
    missing = np.zeros((500, 600), bool)
    missing[100:300, 200:400] = True
    assert block.valid is not None
    np.testing.assert_array_equal(block.valid, ~missing[np.ix_(rows, cols)])


def looked_at(path: Path, reads: list[Window], monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The scene after its look; the windows that this read are noted."""
    plain = GdalPixels.read

    def noted(self: GdalPixels, window: Window, *rest: Any, **more: Any) -> Any:
        reads.append(window)
        return plain(self, window, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(GdalPixels, "read", noted)
        scene = open_scene(path)
        assert scene.look is not None
    return scene


def area(windows: list[Window]) -> int:
    return sum(window.height * window.width for window in windows)


def test_a_picture_to_its_edges_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = noise(1280, 1280)
    bands[:, 5, 700] = 255  # a bright roof at the border is no collar
    bands[:, 300:700, 300:700] = 0  # nor is a black lake
    reads: list[Window] = []
    with looked_at(written(tmp_path / "scene.tif", bands, **TILED), reads, monkeypatch) as scene:
        assert scene.look.collar is None
        assert area(reads) < 0.25 * 1280 * 1280
        np.testing.assert_array_equal(scene.read(scene.extent), bands.transpose(1, 2, 0))
        assert scene.valid_fraction(scene.extent) == 1.0


def test_a_collar_is_looked_at_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = noise(1280, 1280)
    across = np.add.outer(np.arange(1280), np.arange(1280)) < 500
    bands[:, across] = 0
    reads: list[Window] = []
    with looked_at(written(tmp_path / "scene.tif", bands, **TILED), reads, monkeypatch) as scene:
        assert scene.look.collar is not None
        assert area(reads) > 1280 * 1280
        _, valid = scene.read_masked(scene.extent)
        assert valid is not None
        np.testing.assert_array_equal(valid, ~across)
        corner = scene.read(Window(0, 0, 4, 4))
        np.testing.assert_allclose(corner[0, 0], bands[:, ~across].mean(axis=1), atol=2)


@settings(max_examples=40, deadline=None)
@given(
    areas=st.lists(
        st.tuples(
            st.integers(0, 640),
            st.integers(0, 640),
            st.integers(1, 400),
            st.integers(1, 400),
            st.sampled_from((0, 255, 3, 250)),
        ),
        max_size=4,
    ),
    lossy=st.booleans(),
)
def test_the_border_never_hides_a_collar(
    areas: list[tuple[int, int, int, int, int]], lossy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bands = noise(650, 650)
    for row, col, height, width, value in areas:
        bands[:, row : row + height, col : col + width] = value
    path = written(tmp_path_factory.mktemp("look") / "scene.tif", bands, **TILED)
    with open_scene(path) as scene:
        assert isinstance(scene._pixels, GdalPixels)
        scene._pixels.lossy = lossy
        expected = collar_from_overview(bands, height=650, width=650, lossy=lossy)
        assert (scene.look.collar is None) == (expected is None)
