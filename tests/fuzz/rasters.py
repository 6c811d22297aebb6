"""GeoTIFF headers and directories, masks, tags and files beside them, and virtual rasters."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.io import MemoryFile

from fuzz.harness import FilesHarness, packed
from fuzz.mutation import HOSTILE_TEXTS, mutated_bytes, mutated_text
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.raster import open_scene
from lrsclip_rt.tiles import Window

__all__ = ["RastersHarness"]

_SIDE = 40
_UTM = {"crs": "EPSG:32650", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 4e6)}
_LONLAT = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.01, 0, 10, 0, -0.01, 50)}
_PROFILES: tuple[dict[str, Any], ...] = (
    {"count": 3, "dtype": "uint8", **_UTM},
    {"count": 4, "dtype": "uint8", "photometric": "rgb", "alpha": "yes", **_LONLAT},
    {"count": 1, "dtype": "uint16", "nodata": 0, "compress": "lzw", **_UTM},
    {"count": 3, "dtype": "float32", "nodata": float("nan"), "compress": "deflate", **_UTM},
    {
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": 16,
        "blockysize": 16,
        "compress": "deflate",
        **_LONLAT,
    },
    {"count": 3, "dtype": "uint8", "compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"},
    {"count": 2, "dtype": "int16", "bigtiff": "yes", "nodata": -9999, **_UTM},
    {"count": 1, "dtype": "uint8", "photometric": "palette"},
)
_VRT = """<VRTDataset rasterXSize="40" rasterYSize="40"><SRS>EPSG:32650</SRS>
<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="40" ySize="40"/><DstRect xOff="0" yOff="0" xSize="40" ySize="40"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""
_AUX = """<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>10, 0.01, 0, 50, 0, -0.01</GeoTransform>
<Metadata><MDI key="ACQUISITION_DATE">2020-08-31</MDI></Metadata><PAMRasterBand band="1">
<NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>"""


class RastersHarness(FilesHarness):
    """Opens a raster and asks for its picture, place and time."""

    name = "GeoTIFF headers"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root.mkdir()
        pictures = [_geotiff(profile) for profile in _PROFILES]
        self.sound = {"a.tif": pictures[0], "a.vrt": _VRT.encode(), "a.tif.aux.xml": _AUX.encode()}
        (self.root / "a.tif").write_bytes(pictures[0])
        (self.root / "a.vrt").write_bytes(_VRT.encode())
        self.seeds = [packed({0: picture}) for picture in pictures]
        self.seeds += [packed({1: _VRT.encode()}), packed({0: pictures[1], 2: _AUX.encode()})]

    def put(self, data: bytes) -> dict[str, bytes]:
        """Without the metadata of an earlier case."""
        changed = super().put(data)
        if "a.tif.aux.xml" not in changed:
            (self.root / "a.tif.aux.xml").unlink(missing_ok=True)
        return changed

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """An entry of the directory, or any byte; XML as text."""
        if name == "a.tif":
            return _other_entry(content, rng) if rng.randrange(2) else mutated_bytes(content, rng)
        text = content.decode("utf-8", "replace")
        if rng.randrange(2):
            start = text.find(">", rng.randrange(len(text) + 1)) + 1
            text = text[:start] + rng.choice((*HOSTILE_TEXTS, "-1", "1e999", "99999999999")) + text[start:]
            return text.encode("utf-8", "replace")
        return mutated_text(text, rng).encode("utf-8", "replace")

    def feed(self, data: bytes) -> None:
        """Open what was changed, read a corner and the whole in small, and ask where and when it was."""
        changed = self.put(data)
        name = "a.vrt" if "a.vrt" in changed and "a.tif" not in changed else "a.tif"
        with open_scene(self.root / name) as scene:
            refused: list[LrsclipError] = []
            whole = scene.extent
            corner = Window(0, 0, min(whole.width, 64), min(whole.height, 64))
            for use in (
                lambda: scene.footprint(whole),
                lambda: scene.bounds(whole),
                lambda: (scene.gsd_m, scene.crs, scene.transform, scene.datetime, repr(scene)),
                lambda: scene.read(corner),
                lambda: scene.valid_fraction(corner),
                lambda: scene.read(whole, out_width=16),
            ):
                try:
                    use()
                except LrsclipError as error:
                    refused.append(error)
        if refused:
            raise refused[0]


def _geotiff(profile: dict[str, Any]) -> bytes:
    count, dtype = profile["count"], profile["dtype"]
    bands = np.random.default_rng(0).integers(0, 200, (count, _SIDE, _SIDE)).astype(dtype)
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore")
        with memory.open(driver="GTiff", height=_SIDE, width=_SIDE, **profile) as target:
            target.write(bands)
            target.update_tags(TIFFTAG_DATETIME="2020:01:02 03:04:05", ACQUISITION_DATE="2020-08-31")
            if profile.get("photometric") == "palette":
                target.write_colormap(1, {n: (n, 255 - n, 0, 255) for n in range(256)})
                points = [
                    GroundControlPoint(r, c, 10 + c / 99, 50 - r / 99) for r, c in ((0, 0), (0, 39), (39, 0))
                ]
                target.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
        return io.BytesIO(memory.getbuffer()).getvalue()


def _other_entry(content: bytes, rng: Random) -> bytes:
    """Change the type, count or value of an entry of the first directory of a classic little-endian TIFF."""
    data = bytearray(content)
    if data[:4] != b"II*\0" or len(data) < 16:
        return mutated_bytes(content, rng)
    (offset,) = struct.unpack_from("<I", data, 4)
    if offset + 2 > len(data):
        return mutated_bytes(content, rng)
    (entries,) = struct.unpack_from("<H", data, offset)
    place = offset + 2 + 12 * rng.randrange(max(1, min(entries, 40)))
    if place + 12 > len(data):
        return mutated_bytes(content, rng)
    field = rng.randrange(4)
    if field == 0:
        struct.pack_into(
            "<H", data, place, rng.choice((256, 257, 258, 259, 262, 273, 277, 279, 320, 322, 33550, 34735))
        )
    elif field == 1:
        struct.pack_into("<H", data, place + 2, rng.randrange(20))
    else:
        value = rng.choice((0, 1, 2, 7, 255, 1000, 65_535, 300_000, 2**31 - 1, 2**31, 2**32 - 1, len(data)))
        struct.pack_into("<I", data, place + 4 * (field - 1), value)
    return bytes(data)
