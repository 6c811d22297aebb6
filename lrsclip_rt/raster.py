"""Scenes: rasters of any size and number type, read in windows as 8-bit RGB.

``open_scene`` opens whatever GDAL reads (GeoTIFF, COG, VRT, JPEG 2000 ...) through rasterio and
plain images (JPEG, PNG ... without a world file) through Pillow. A scene's picture is independent of
the window asked for: contrast limits, collar and fill colour are found once, on an overview of the
whole raster.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import RasterError
from lrsclip_rt.raster_gdal import GdalPixels
from lrsclip_rt.raster_georeference import Affine6, Bounds, Georeference, Ring, is_known_crs
from lrsclip_rt.raster_mask import Collar, collar_from_overview, has_clear_border
from lrsclip_rt.raster_pixels import ArrayPixels, PixelSource, centres
from lrsclip_rt.raster_stretch import Stretch, stretch_from_sample
from lrsclip_rt.tiles import Window

__all__ = ["OVERVIEW_SIDE", "Scene", "StretchChoice", "open_scene", "scene_from_array"]

StretchChoice = Literal["auto"] | tuple[float, float] | None

OVERVIEW_SIDE = 1024
"""Longest side [px] of the decimated read that fixes contrast, collar and fill colour."""

_FEWEST_BLOCKS = 6
"""Blocks along a side from which on those of the border are few among all."""

PLAIN_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".avif"})
"""Images that Pillow reads whole, with their EXIF orientation, up to ``images.MAX_IMAGE_PIXELS``."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is the same for every window of a scene.

    Attributes:
        stretch: Map to 8 bits, or None where the values are colours already.
        collar: Untagged frame of black or white, or None.
        fill: RGB that stands in for missing pixels: the mean of the valid ones; None where none is missing.
    """

    stretch: Stretch | None
    collar: Collar | None
    fill: tuple[int, int, int] | None


class Scene:
    """An open raster; a context manager. Made by ``open_scene`` or ``scene_from_array``.

    Reads may come from several threads; they take turns.

    Attributes:
        path: The file, or None for an array.
        height: Rows [px].
        width: Columns [px].
        datetime: Time of acquisition, "2020-08-31T17:39:01Z", or None.
    """

    def __init__(
        self,
        pixels: PixelSource,
        *,
        path: Path | None = None,
        georeference: Georeference | None = None,
        datetime: str | None = None,
        stretch: StretchChoice = None,
    ) -> None:
        self.path = path
        self.height = pixels.height
        self.width = pixels.width
        self.datetime = datetime
        self._pixels = pixels
        self._georeference = georeference
        self._stretch = stretch
        self._lock = threading.RLock()
        self._closed = False

    def __repr__(self) -> str:
        place = self.crs or "no CRS"
        return f"Scene({self.name!r}, {self.height} x {self.width} px, {place.splitlines()[0][:40]})"

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards raises ``RasterError``."""
        with self._lock:
            self._closed = True
            self._pixels.close()

    @property
    def name(self) -> str:
        """File name for messages and titles."""
        return "array" if self.path is None else self.path.name

    @property
    def extent(self) -> Window:
        """The whole scene as a window."""
        return Window(0, 0, self.width, self.height)

    @property
    def crs(self) -> str | None:
        """Coordinate system as "EPSG:n" or WKT; None for a scene without georeference."""
        return None if self._georeference is None else self._georeference.crs

    @property
    def transform(self) -> Affine6 | None:
        """``(a, b, c, d, e, f)`` from pixel corners (col, row) to CRS coordinates."""
        return None if self._georeference is None else self._georeference.transform

    @cached_property
    def gsd_m(self) -> float | None:
        """Ground distance of a pixel [m] at the centre, or None where it cannot be known."""
        return None if self._georeference is None else self._georeference.gsd_m(self.height, self.width)

    @cached_property
    def content_sha256(self) -> str:
        """64 hex digits over the file's bytes (a VRT: and its sources'), or an array's shape and bytes."""
        if self.path is None:
            whole = self._pixels.read(self.extent, self.height, self.width).bands
            digest = hashlib.sha256(f"{whole.dtype} {whole.shape}".encode())
            digest.update(np.ascontiguousarray(whole).tobytes())
            return digest.hexdigest()
        if self.path.suffix.lower() != ".vrt" or not isinstance(self._pixels, GdalPixels):
            return _file_sha256(self.path)
        with self._lock, self._pixels.guarded("has sources that cannot be listed"):
            self._check_open()
            sources = self._pixels.dataset.files
        digest = hashlib.sha256(_file_sha256(self.path).encode())
        for source in sorted({Path(name) for name in sources} - {self.path}):
            digest.update(_file_sha256(source).encode())
        return digest.hexdigest()

    @cached_property
    def look(self) -> Look:
        """Contrast, collar and fill colour, found on first use."""
        height, width = _fitted(self.height, self.width, OVERVIEW_SIDE)
        with self._lock:
            self._check_open()
            if self._is_seen_whole(height, width):
                return Look(None, None, None)
            block = self._pixels.read(self.extent, height, width, smooth=False)
        valid = np.ones((height, width), dtype=bool) if block.valid is None else block.valid
        collar = None
        if not self._pixels.tagged and not self._is_one_bit:
            collar = collar_from_overview(
                block.bands, height=self.height, width=self.width, lossy=self._pixels.lossy
            )
            if collar is not None:
                valid = valid & ~collar.covers(block.bands, self.extent)
        stretch = self._chosen_stretch(block.bands, valid)
        colours = _eight_bit(block.bands, stretch)
        mean = colours.mean(axis=(1, 2), where=valid) if valid.any() else np.zeros(3)
        return Look(stretch, collar, (round(mean[0]), round(mean[1]), round(mean[2])))

    def read(
        self,
        window: Window,
        *,
        out_height: int | None = None,
        out_width: int | None = None,
        fill: bool = True,
    ) -> NDArray[np.uint8]:
        """Read a window as 8-bit RGB.

        Args:
            window: Full-resolution source pixels, inside the scene.
            out_height: Rows to return [px]; the window's own by default, or in proportion where only
                ``out_width`` is given. Fewer rows than the window has are means of source pixels, taken
                from the file's overviews where it has them.
            out_width: Columns to return [px].
            fill: Put the scene's mean colour where pixels are missing; else they stay as stored.

        Returns:
            (h, w, 3) uint8, C-contiguous.

        Raises:
            RasterError: If the window leaves the scene or the file is damaged there.
        """
        if fill or not self._shows_stored_colours:
            return self.read_masked(window, out_height=out_height, out_width=out_width, fill=fill)[0]
        # Neither contrast nor missing pixels matter here: the look at the whole scene is spared.
        self._check_window(window)
        height, width = _out_shape(window, out_height, out_width)
        with self._lock:
            self._check_open()
            return _interleaved(self._pixels.read(window, height, width).bands)

    def read_masked(
        self,
        window: Window,
        *,
        out_height: int | None = None,
        out_width: int | None = None,
        fill: bool = True,
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """As ``read``, with the (h, w) bool map of valid pixels, or None where all are."""
        self._check_window(window)
        height, width = _out_shape(window, out_height, out_width)
        look = self.look
        with self._lock:
            self._check_open()
            block = self._pixels.read(window, height, width)
        valid = block.valid
        if look.collar is not None and look.collar.touches(window):
            inside = ~look.collar.covers(block.bands, window)
            valid = inside if valid is None else valid & inside
        rgb = _interleaved(_eight_bit(block.bands, look.stretch))
        if valid is not None and valid.all():
            valid = None
        if fill and valid is not None:
            assert look.fill is not None, "a scene with a missing pixel has been looked at as a whole"
            rgb[~valid] = look.fill
        return rgb, valid

    def valid_fraction(self, window: Window) -> float:
        """Share of the window's pixels that show something, in [0, 1].

        Missing are pixels of the nodata value, under a transparent alpha or mask, not a number, or in
        an untagged black or white collar.

        Raises:
            RasterError: If the window leaves the scene.
        """
        valid = self.valid_mask(window)
        return 1.0 if valid is None else float(valid.mean())

    def footprint(self, window: Window) -> Ring | None:
        """Closed counter-clockwise ring of (lon, lat) in WGS84, its edges densified.

        Where the window crosses the antimeridian this is its larger part; ``footprints`` gives both.

        Raises:
            RasterError: If the window leaves the scene.
        """
        rings = self.footprints(window)
        return None if rings is None else max(rings, key=_ring_area)

    def footprints(self, window: Window) -> tuple[Ring, ...] | None:
        """Rings of a window; two where it crosses the antimeridian (RFC 7946, section 3.1.9)."""
        self._check_window(window)
        return None if self._georeference is None else self._georeference.footprint(window)

    def bounds(self, window: Window) -> Bounds | None:
        """``(W, S, E, N)`` [deg]; W > E where the window crosses the antimeridian.

        Raises:
            RasterError: If the window leaves the scene.
        """
        self._check_window(window)
        return None if self._georeference is None else self._georeference.bounds(window)

    def places(self, windows: Sequence[Window]) -> list[tuple[Bounds, tuple[Ring, ...]] | None]:
        """``bounds`` and ``footprints`` of many windows, in far less time than one by one.

        Raises:
            RasterError: If a window leaves the scene.
        """
        for window in windows:
            self._check_window(window)
        return [None] * len(windows) if self._georeference is None else self._georeference.places(windows)

    def place_at(self, transform: Affine6, crs: str) -> None:
        """Give a scene without georeference the place that another source knows.

        Raises:
            RasterError: If PROJ does not know the CRS.
        """
        if not is_known_crs(crs):
            raise RasterError(f"{self.name} is said to lie in {crs!r}, which PROJ does not know")
        self._georeference = Georeference(transform, crs)
        self.__dict__.pop("gsd_m", None)

    def rings_from_pixels(self, pixels: NDArray[np.float64]) -> tuple[Ring, ...] | None:
        """Reproject a closed (n, 2) ring of col, row pixel corners to (lon, lat) rings."""
        return None if self._georeference is None else self._georeference.rings(pixels)

    def lonlat(self, col: float, row: float) -> tuple[float, float] | None:
        """Longitude and latitude [deg] of a pixel corner; centres are at + 0.5."""
        if self._georeference is None:
            return None
        found = self._georeference.lonlat_from_pixels(np.array([col]), np.array([row]))
        if found is None:
            return None
        return float((found[0][0] + 180.0) % 360.0 - 180.0), float(found[1][0])

    def pixel_areas_m2(
        self, cols: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Area on the ground [m^2] of a pixel at each place, or None where it cannot be known."""
        return None if self._georeference is None else self._georeference.pixel_areas_m2(cols, rows)

    def valid_mask(self, window: Window) -> NDArray[np.bool_] | None:
        """(h, w) bool map of the window's pixels that show something; None where all do.

        Raises:
            RasterError: If the window leaves the scene or the file is damaged there.
        """
        self._check_window(window)
        return self.read_masked(window, fill=False)[1] if self._may_miss_pixels(window) else None

    @property
    def shows_all(self) -> bool:
        """Whether it is known, without reading every pixel, that none is missing."""
        return not self._may_miss_pixels(self.extent)

    def valid_map(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """Which cells of a ``height x width`` grid over the scene show something; None where all do."""
        if not self._may_miss_pixels(self.extent):
            return None
        return self.read_masked(self.extent, out_height=height, out_width=width, fill=False)[1]

    def _may_miss_pixels(self, window: Window) -> bool:
        if self._pixels.tagged or (isinstance(self._pixels, GdalPixels) and self._pixels.dtype.kind == "f"):
            return True
        collar = self.look.collar
        return collar is not None and collar.touches(window)

    def _is_seen_whole(self, height: int, width: int) -> bool:
        """Whether the blocks along the border show that no pixel is missing; else all have to be looked at.

        A large file without overviews would be decoded twice: once for the look, once for its windows.
        """
        pixels = self._pixels
        if not isinstance(pixels, GdalPixels) or not self._shows_stored_colours:
            return False
        blocks = (self.height / pixels.block_height, self.width / pixels.block_width)
        if not (pixels.is_flat and pixels.is_plain_colour) or pixels.tagged or min(blocks) < _FEWEST_BLOCKS:
            return False
        rows, cols = centres(self.height, height), centres(self.width, width)
        last_row = (self.height - 1) // pixels.block_height * pixels.block_height
        last_col = (self.width - 1) // pixels.block_width * pixels.block_width
        top, bottom = np.searchsorted(rows, (pixels.block_height, last_row))
        left, right = np.searchsorted(cols, (pixels.block_width, last_col))
        bands, known = np.zeros((3, height, width), np.uint8), np.ones((height, width), bool)
        known[top:bottom, left:right] = False
        every, middle = slice(None), slice(top, bottom)
        for down, across in (
            (slice(top), every),
            (slice(bottom, None), every),
            (middle, slice(left)),
            (middle, slice(right, None)),
        ):
            bands[:, down, across] = pixels.sampled(rows[down], cols[across]).bands
        return has_clear_border(bands, known, lossy=pixels.lossy)

    @property
    def _shows_stored_colours(self) -> bool:
        """Whether the picture is what is stored, without a stretch."""
        if isinstance(self._stretch, tuple):
            return False
        return not isinstance(self._pixels, GdalPixels) or self._pixels.is_colour

    @property
    def _is_one_bit(self) -> bool:
        return isinstance(self._pixels, GdalPixels) and self._pixels.bits == 1

    def _chosen_stretch(self, bands: NDArray[Any], valid: NDArray[np.bool_]) -> Stretch | None:
        if isinstance(self._stretch, tuple):
            low, high = float(self._stretch[0]), float(self._stretch[1])
            return Stretch((low,) * 3, (high,) * 3)
        if self._shows_stored_colours:
            return None
        if self._stretch is None:
            return Stretch((0.0,) * 3, (255.0,) * 3)
        if self._is_one_bit:
            return Stretch((0.0,) * 3, (1.0,) * 3)
        return stretch_from_sample(bands, valid)

    def _check_window(self, window: Window) -> None:
        right, bottom = window.col_off + window.width, window.row_off + window.height
        if window.col_off < 0 or window.row_off < 0 or right > self.width or bottom > self.height:
            raise RasterError(
                f"window {window.as_list()} leaves {self.name} of {self.width} x {self.height} px; "
                "give a window [col_off, row_off, width, height] inside it"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise RasterError(f"{self.name} is closed; open it again with open_scene")


def open_scene(
    path: str | Path,
    *,
    bands: tuple[int, ...] | None = None,
    nodata: float | None = None,
    stretch: StretchChoice = "auto",
) -> Scene:
    """Open a raster or a plain image for windowed reading.

    Args:
        path: GeoTIFF, COG, VRT or anything else that GDAL reads; JPEG, PNG, WebP, BMP or GIF.
        bands: One or three 1-based bands for R, G, B. By default the bands tagged red, green and blue
            if all three are, else 1, 2, 3; of fewer than three the first is replicated.
        nodata: Value of missing pixels, in place of the file's own.
        stretch: "auto" leaves 8-bit values alone and maps others by the 2 % and 98 % values of each band
            over the whole raster; ``(low, high)`` maps these limits to 0 and 255; None only clips to
            0 .. 255.

    Raises:
        RasterError: If the file is missing, unreadable or has no such bands.
        ImageError: If a plain image cannot be decoded.
        DependencyError: If rasterio is needed and not installed.
    """
    path = Path(path)
    _check_stretch(stretch)
    defaults = bands is None and nodata is None and stretch == "auto"
    if defaults and path.suffix.lower() in PLAIN_SUFFIXES and not _has_georeference_beside(path):
        from lrsclip_rt.raster_plain import is_too_large, plain_scene_parts

        if not is_too_large(path):
            plain, taken = plain_scene_parts(path)
            return Scene(plain, path=path, datetime=taken)
    from lrsclip_rt.raster_gdal_metadata import datetime_of_dataset, georeference_of_dataset

    pixels = GdalPixels(path, bands=bands, nodata=nodata)
    try:
        with pixels.guarded("cannot be understood"):
            georeference = georeference_of_dataset(pixels.dataset)
            taken = datetime_of_dataset(pixels.dataset, path.name)
    except BaseException:
        pixels.close()
        raise
    return Scene(pixels, path=path, georeference=georeference, datetime=taken, stretch=stretch)


def scene_from_array(
    array: NDArray[np.uint8], *, transform: Affine6 | None = None, crs: str | None = None
) -> Scene:
    """A scene from an (H, W, 3) uint8 array, which is not copied.

    Raises:
        RasterError: If it is not such an array.

    Example:
        >>> scene_from_array(np.zeros((20, 30, 3), np.uint8))
        Scene('array', 20 x 30 px, no CRS)
    """
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise RasterError(f"got an array {array.shape} {array.dtype}; expected (H, W, 3) uint8")
    georeference = None if transform is None else Georeference(transform, crs)
    return Scene(ArrayPixels(array), georeference=georeference)


def _eight_bit(bands: NDArray[Any], stretch: Stretch | None) -> NDArray[np.uint8]:
    return bands if stretch is None else stretch.apply(bands)


def _interleaved(bands: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(3, h, w) as (h, w, 3), C-contiguous; band by band, which is far faster than NumPy's own transpose."""
    if (as_pixels := bands.transpose(1, 2, 0)).flags.c_contiguous:
        return np.asarray(as_pixels)
    rgb = np.empty((*bands.shape[1:], 3), np.uint8)
    for index, band in enumerate(bands):
        rgb[..., index] = band
    return rgb


def _check_stretch(stretch: StretchChoice) -> None:
    if stretch is None or stretch == "auto":
        return
    if not isinstance(stretch, tuple) or len(stretch) != 2 or not stretch[0] < stretch[1]:
        raise RasterError(f"stretch is {stretch!r}; expected 'auto', None or (low, high) with low < high")


def _has_georeference_beside(path: Path) -> bool:
    """A world file (.jgw, .jpgw, .wld) or GDAL's .aux.xml."""
    suffix = path.suffix
    short = suffix[:2] + suffix[-1] + "w"
    sidecars = [path.with_suffix(end) for end in (short, short.upper(), suffix + "w", ".wld")]
    return any(beside.is_file() for beside in [*sidecars, path.with_name(path.name + ".aux.xml")])


def _fitted(height: int, width: int, longest: int) -> tuple[int, int]:
    """Shape with the same aspect and no side above ``longest``, never enlarged."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _out_shape(window: Window, out_height: int | None, out_width: int | None) -> tuple[int, int]:
    if out_height is None and out_width is None:
        return window.height, window.width
    if out_height is None:
        assert out_width is not None
        out_height = max(1, round(window.height * out_width / window.width))
    elif out_width is None:
        out_width = max(1, round(window.width * out_height / window.height))
    if out_height < 1 or out_width < 1:
        raise RasterError(f"got an output of {out_height} x {out_width} px; expected at least 1 x 1")
    return out_height, out_width


def _ring_area(ring: Ring) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring))


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise RasterError(f"{path} cannot be read ({error.strerror}); check the file") from error
    return digest.hexdigest()
