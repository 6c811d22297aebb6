"""Rasters that are broken, empty or not rasters: one named error a file, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.errors import ImageError, LrsclipError, RasterError
from lrsclip_rt.localization.scene_embedding import embed_scene
from lrsclip_rt.raster import open_scene
from lrsclip_rt.tiles import Window

rasterio = pytest.importorskip("rasterio")


def tif_bytes(path: Path, *, size: int = 256, **extra: object) -> bytes:
    bands = np.random.default_rng(0).integers(0, 256, (3, size, size)).astype(np.uint8)
    profile = {"driver": "GTiff", "count": 3, "height": size, "width": size, "dtype": "uint8", **extra}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as target:
            target.write(bands)
    return path.read_bytes()


def read_all(path: Path) -> None:
    with open_scene(path) as scene:
        scene.read(scene.extent)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"II*\0", b"not a raster at all", b"\x89PNG\r\n\x1a\n", b"<VRTDataset>"]
)
@pytest.mark.parametrize("name", ["a.tif", "a.vrt", "a.jp2", "noending"])
def test_files_that_are_no_rasters_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RasterError, match=f"{name} cannot be opened") as caught:
        open_scene(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.tif", "gone.png", "gone.vrt", "a folder/gone.tif"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RasterError, match="does not exist"):
        open_scene(tmp_path / name)


def test_a_folder_is_not_a_raster(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="cannot be opened"):
        open_scene(tmp_path)


def test_a_truncated_tif_fails_where_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    whole = tif_bytes(path, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RasterError, match=r"a\.tif cannot be"):
        read_all(path)


def test_any_cut_or_flipped_tif_gives_our_error_or_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    whole = tif_bytes(path, size=64, compress="deflate")
    rng = np.random.default_rng(1)
    messages = []
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[int(rng.integers(1, len(whole))) :]
        else:
            # The header and the directory are where a flip hurts most.
            for place in (
                rng.integers(0, 8, 1).tolist() + rng.integers(len(whole) - 260, len(whole), 2).tolist()
            ):
                damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            read_all(path)
        except RasterError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all("a.tif" in message for message in messages)


def test_a_tif_that_claims_to_be_huge_opens_and_fails_only_where_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "tiled": True, "sparse_ok": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", height=300_000, width=300_000, bigtiff="yes", **profile):
            pass
    with open_scene(path, nodata=0, stretch=(0, 255)) as scene:
        assert (scene.height, scene.width) == (300_000, 300_000)
        with pytest.raises(RasterError, match="leaves"):
            scene.read(Window(299_999, 0, 2, 1))


def test_a_vrt_without_its_source_fails_by_name(tmp_path: Path) -> None:
    from rasterio import shutil as rasterio_shutil

    source, vrt = tmp_path / "a.tif", tmp_path / "a.vrt"
    tif_bytes(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(source) as dataset:
            rasterio_shutil.copy(dataset, vrt, driver="VRT")
    source.unlink()
    with pytest.raises(RasterError, match=r"a\.vrt"):
        read_all(vrt)


def test_broken_plain_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (50, 50), (1, 2, 3)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"a\.png"):
        open_scene(path)


def test_a_bomb_of_a_png_is_refused_without_decoding_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 200_000, 200_000)
    path.write_bytes(bytes(content))
    with pytest.raises(LrsclipError, match=r"a\.png"):
        read_all(path)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_raster_of_a_few_pixels_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tif"
    tif_bytes(path, size=size)
    with open_scene(path) as scene:
        assert scene.read(scene.extent).shape == (size, size, 3)
        assert scene.valid_fraction(scene.extent) == 1.0


def test_a_raster_of_nodata_alone_reads_as_black(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=20,
        width=20,
        dtype="float32",
        nodata=-9999,
        crs="EPSG:4326",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as target:
        target.write(np.full((1, 20, 20), -9999, np.float32))
    with open_scene(path) as scene:
        assert scene.valid_fraction(scene.extent) == 0.0
        assert scene.read(scene.extent).max() == 0


def test_a_crs_that_has_no_place_on_the_earth_gives_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    local = 'LOCAL_CS["shop floor",UNIT["metre",1]]'
    tif_bytes(path, crs=local, transform=rasterio.Affine(1, 0, 5, 0, -1, 5))
    with open_scene(path) as scene:
        assert scene.footprint(scene.extent) is None
        assert scene.bounds(scene.extent) is None
        assert scene.gsd_m is None


def test_coordinates_off_the_globe_give_no_footprint(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tif_bytes(path, crs="EPSG:32650", transform=rasterio.Affine(1e9, 0, 1e12, 0, -1e9, 1e12))
    with open_scene(path) as scene:
        ring = scene.footprint(scene.extent)
        assert ring is None or np.isfinite(np.array(ring)).all()


def test_a_singular_transform_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tif_bytes(path, crs="EPSG:32650", transform=rasterio.Affine(0, 0, 500000, 0, 0, 4e6))
    with open_scene(path) as scene:
        assert scene.read(scene.extent).shape == (256, 256, 3)
        assert scene.bounds(scene.extent) is not None


def test_localizing_in_a_damaged_scene_raises_its_error(tmp_path: Path, made_bundle: Path) -> None:
    from lrsclip_rt.embedder import load

    path = tmp_path / "a.tif"
    whole = tif_bytes(path, size=512, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(whole[: len(whole) // 2])
    # The bundle's vocabulary is a stub, so the windows are embedded without a text.
    with open_scene(path) as scene, pytest.raises(RasterError, match=r"a\.tif"):
        embed_scene(load(made_bundle), scene)


PYTHON_IN_A_VRT = """<VRTDataset rasterXSize="8" rasterYSize="8">
<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">
<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f</PixelFunctionType>
<PixelFunctionCode><![CDATA[
def f(*arguments, **more):
    open({canary!r}, "w").close()
]]></PixelFunctionCode>
<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource>
</VRTRasterBand></VRTDataset>"""
REMOTE_VRT = """<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename>/vsicurl/http://127.0.0.1:{port}/a.tif</SourceFilename></SimpleSource>
</VRTRasterBand></VRTDataset>"""
MAP_SERVICE = """<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:{port}/${{z}}/${{x}}/${{y}}.png</ServerUrl>
</Service><DataWindow><UpperLeftX>-180</UpperLeftX><UpperLeftY>90</UpperLeftY><LowerRightX>180</LowerRightX>
<LowerRightY>-90</LowerRightY><TileLevel>2</TileLevel></DataWindow><Projection>EPSG:4326</Projection>
<BandsCount>3</BandsCount></GDAL_WMS>"""


def test_python_in_a_virtual_raster_is_not_run_even_where_the_environment_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    tif_bytes(tmp_path / "a.tif", size=8)
    canary = tmp_path / "canary"
    (tmp_path / "a.vrt").write_text(PYTHON_IN_A_VRT.format(canary=str(canary)))
    with warnings.catch_warnings(), contextlib.suppress(rasterio.errors.RasterioError):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.vrt") as dataset:
            dataset.read(1)
    if not canary.exists():
        pytest.skip("this GDAL runs no Python code, whatever it is let")
    canary.unlink()
    with pytest.raises(RasterError, match="Python code"):
        read_all(tmp_path / "a.vrt")
    assert not canary.exists()


@pytest.mark.parametrize(("name", "content"), [("a.vrt", REMOTE_VRT), ("a.tif", MAP_SERVICE)])
def test_a_raster_does_not_open_the_network(tmp_path: Path, name: str, content: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        path = tmp_path / name
        path.write_text(content.format(port=server.getsockname()[1]))
        with pytest.raises(RasterError, match=name):
            read_all(path)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
