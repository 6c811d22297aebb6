"""Pixels of any raster that GDAL opens: bands, palettes, masks, decimated reads."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import DependencyError, RasterError
from lrsclip_rt.raster_pixels import Block, centres
from lrsclip_rt.tiles import Window

__all__ = ["GdalPixels", "gdal_environment", "gdal_errors", "import_rasterio"]

CACHE_BYTES = 256 * 2**20
"""GDAL's block cache while a scene is open; its own default is a share of the machine's memory."""

SUPERSAMPLE = 4
"""Samples a side behind each pixel where GDAL's own average would mix in pixels that are not valid."""

LOSSY = frozenset({"jpeg", "webp", "lerc", "jpeg2000", "jxl"})

_CHUNK_HEIGHT, _CHUNK_WIDTH = 512, 8192
"""Pixels that sampling holds at a time, in whole blocks of the file."""
_MOST_BLOCK_PX = 1 << 22
"""A file of larger blocks is left to GDAL: the cache might not hold one."""

_SERVICES = ("WMS", "WMTS", "WCS", "HTTP", "OGCAPI", "PLMOSAIC", "EEDA", "EEDAI", "DAAS", "STACIT", "STACTA")
_CLOSED: dict[str, str] = {
    # Python code in a virtual raster, which an environment variable of the same name would allow.
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # Remote files named by a virtual raster: none has this name.
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "no remote file",
    # Formats that are a service's address; a file of any ending may be one.
    "GDAL_SKIP": " ".join(_SERVICES),
}
"""Settings under which no raster runs code or opens the network."""


def import_rasterio() -> ModuleType:
    """Import rasterio.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise DependencyError.of("rasterio", extra="cpu") from error
    module: ModuleType = rasterio
    return module


def gdal_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises: its own errors, and GDAL's where it passes them on."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError


@contextmanager
def gdal_environment() -> Iterator[None]:
    """GDAL with a bounded cache, no code, no network, and rasterio's warnings (no overview ...) kept in."""
    rasterio = import_rasterio()
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, **_CLOSED):
        warnings.simplefilter("ignore", category=UserWarning)  # the base of rasterio's own
        yield


class GdalPixels:
    """Three bands of a GDAL raster.

    Args:
        path: The raster.
        bands: One or three 1-based band numbers, or None for red, green and blue by colour
            interpretation where all three are tagged, else 1, 2, 3 (the first, replicated, where
            there are fewer than three).
        nodata: Value that marks missing pixels, in place of the file's own.

    Raises:
        DependencyError: If rasterio is not installed.
        RasterError: If the file cannot be opened or has no such bands.
    """

    def __init__(self, path: Path, *, bands: tuple[int, ...] | None, nodata: float | None) -> None:
        self.path = path
        self._rasterio = import_rasterio()
        if not path.exists():
            raise RasterError(f"{path} does not exist; give the path of a raster file")
        with self.guarded("cannot be opened"):
            self.dataset = self._rasterio.open(path)
        try:
            with self.guarded("cannot be understood"):
                self._prepare(bands, nodata)
        except BaseException:
            self.dataset.close()
            raise

    def _prepare(self, bands: tuple[int, ...] | None, nodata: float | None) -> None:
        dataset = self.dataset
        # GDAL_SKIP comes too late where somebody else started GDAL in this process before.
        if dataset.driver in _SERVICES:
            raise RasterError(
                f"{self.path} is the address of a {dataset.driver} service; fetch its pixels first"
            )
        self.height, self.width = int(dataset.height), int(dataset.width)
        if dataset.count == 0:
            found = f"{len(dataset.subdatasets)} subdatasets"
            raise RasterError(f"{self.path} holds no bands of its own but {found}; open one of those")
        self.bands = _choose_bands(self.path, dataset, bands)
        self.dtype = np.dtype(dataset.dtypes[self.bands[0] - 1])
        if self.dtype.kind not in "iuf":
            raise RasterError(f"{self.path} holds {self.dtype} values; expected integers or floats")
        interpretation = dataset.colorinterp[self.bands[0] - 1].name
        self._palette = self._read_palette() if interpretation == "palette" else None
        own = [dataset.nodatavals[band - 1] for band in self.bands]
        self._nodata = [nodata] * 3 if nodata is not None else own
        self._by_value = all(value is not None for value in self._nodata)
        flags = [flag.name for flag in dataset.mask_flag_enums[self.bands[0] - 1]]
        self._by_mask = nodata is None and ("per_dataset" in flags or "alpha" in flags)
        self.tagged = self._by_value or self._by_mask
        self.lossy = dataset.compression is not None and dataset.compression.name in LOSSY
        self.bits = int(
            dataset.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", self.dtype.itemsize * 8)
        )
        # GDAL's average knows only the nodata value of the file, and palette numbers have no mean.
        self._masked_mean = self._palette is not None or nodata is not None or self.dtype.kind == "f"
        self.block_height, self.block_width = map(int, dataset.block_shapes[self.bands[0] - 1])
        # Other drivers hide overviews, or blocks that are not those of the file.
        self.is_flat = (
            dataset.driver == "GTiff"
            and not dataset.overviews(self.bands[0])
            and self.block_height * self.block_width <= _MOST_BLOCK_PX
        )

    @property
    def is_colour(self) -> bool:
        """Whether the values are 8-bit colours, which need no stretch."""
        return self._palette is not None or self.is_plain_colour

    @property
    def is_plain_colour(self) -> bool:
        """Whether they are, without a palette."""
        return self._palette is None and self.dtype == np.uint8 and self.bits == 8

    def read(self, window: Window, height: int, width: int, *, smooth: bool = True) -> Block:
        """Read ``window`` as ``height x width`` pixels.

        Where it shrinks, overviews are used if the file has them, and the pixels below each output
        pixel are averaged if ``smooth``, else the nearest is taken.

        Raises:
            RasterError: If the file is damaged there.
        """
        shrinks = height < window.height or width < window.width
        if smooth and shrinks and self._masked_mean:
            return self._read_masked_mean(window, height, width)
        if not smooth and shrinks and self._samples_every_block(window, height, width):
            rows = window.row_off + centres(window.height, height)
            return self.sampled(rows, window.col_off + centres(window.width, width))
        resampling = self._rasterio.enums.Resampling
        method = resampling.nearest
        if smooth and self._palette is None and (height, width) != (window.height, window.width):
            method = resampling.average if shrinks else resampling.bilinear
        stored = self._read_stored(window, height, width, method)
        valid = self._valid(stored, window, height, width)
        if self._palette is None:
            return Block(stored, valid)
        colours = self._palette[np.minimum(stored[0].astype(np.intp), len(self._palette) - 1)]
        opaque = colours[..., 3] > 0
        if not opaque.all():
            valid = opaque if valid is None else valid & opaque
        return Block(np.ascontiguousarray(colours[..., :3].transpose(2, 0, 1)), valid)

    def sampled(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Block:
        """The pixels where increasing ``rows`` and ``cols`` cross; no block is decoded twice.

        GDAL's own nearest read of a file without overviews takes two to three times as long.

        Raises:
            RasterError: If the file is damaged there.
        """
        bands = np.empty((3, len(rows), len(cols)), np.uint8 if self._palette is not None else self.dtype)
        valid: NDArray[np.bool_] | None = None
        for down in _groups(rows, self.block_height, _CHUNK_HEIGHT):
            for across in _groups(cols, self.block_width, _CHUNK_WIDTH):
                inside_rows, inside_cols = rows[down] - rows[down.start], cols[across] - cols[across.start]
                height, width = int(inside_rows[-1]) + 1, int(inside_cols[-1]) + 1
                window = Window(int(cols[across.start]), int(rows[down.start]), width, height)
                block = self.read(window, height, width)
                picked = np.ix_(inside_rows, inside_cols)
                bands[:, down, across] = block.bands[:, picked[0], picked[1]]
                if block.valid is not None:
                    valid = np.ones(bands.shape[1:], bool) if valid is None else valid
                    valid[down, across] = block.valid[picked]
        return Block(bands, valid)

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()

    def _samples_every_block(self, window: Window, height: int, width: int) -> bool:
        steps = (window.height / height, window.width / width)
        return self.is_flat and steps[0] <= self.block_height and steps[1] <= self.block_width

    def _read_stored(self, window: Window, height: int, width: int, method: Any) -> NDArray[Any]:
        distinct = sorted(set(self.bands))
        if self.is_plain_colour and not self._by_value:
            # Nothing looks at single bands: GDAL writes pixel by pixel, as colours are wanted in the end.
            out = np.empty((height, width, len(distinct)), self.dtype).transpose(2, 0, 1)
        else:
            out = np.empty((len(distinct), height, width), self.dtype)
        with self.guarded(f"cannot be read in window {window.as_list()}"):
            stored: NDArray[Any] = self.dataset.read(
                distinct, window=self._native(window), out=out, resampling=method
            )
        if tuple(distinct) == self.bands:
            return stored
        return stored[[distinct.index(band) for band in self.bands]]

    def _valid(
        self, stored: NDArray[Any], window: Window, height: int, width: int
    ) -> NDArray[np.bool_] | None:
        """(h, w) bool; a pixel is missing where all three bands hold their nodata value."""
        valid: NDArray[np.bool_] | None = None
        if self._by_mask:
            with self.guarded(f"has a mask that cannot be read in window {window.as_list()}"):
                mask = self.dataset.read_masks(
                    self.bands[0], window=self._native(window), out_shape=(height, width)
                )
            valid = np.asarray(mask > 0)
        if self._by_value:
            missing = np.ones((height, width), dtype=bool)
            for band, value in zip(stored, self._nodata, strict=True):
                missing &= _equals(band, value)
            valid = ~missing if valid is None else valid & ~missing
        if stored.dtype.kind == "f":
            finite = np.isfinite(stored).all(axis=0)
            valid = finite if valid is None else valid & finite
        return valid

    def _read_masked_mean(self, window: Window, height: int, width: int) -> Block:
        """Average only valid pixels: nearest samples on a finer grid, then means of its cells."""
        rows = min(SUPERSAMPLE, max(1, math.ceil(window.height / height)))
        cols = min(SUPERSAMPLE, max(1, math.ceil(window.width / width)))
        fine = self.read(window, height * rows, width * cols, smooth=False)
        valid = np.ones(fine.bands.shape[1:], dtype=bool) if fine.valid is None else fine.valid
        cells = (height, rows, width, cols)
        count = valid.reshape(cells).sum(axis=(1, 3))
        # Cell by cell the sum stays small, so float64 is exact for every integer type in use.
        values = np.where(valid, fine.bands, 0).astype(np.float64).reshape(3, *cells)
        mean = values.sum(axis=(2, 4)) / np.maximum(count, 1)
        if fine.bands.dtype.kind != "f":
            mean = np.rint(mean)
        return Block(mean.astype(fine.bands.dtype), None if fine.valid is None else count > 0)

    def _read_palette(self) -> NDArray[np.uint8]:
        """(K, 4) uint8 RGBA of each palette number."""
        colours = self.dataset.colormap(self.bands[0])
        table = np.zeros((max(colours) + 1, 4), dtype=np.uint8)
        for number, colour in colours.items():
            table[number] = colour
        return table

    def _native(self, window: Window) -> Any:
        return self._rasterio.windows.Window(window.col_off, window.row_off, window.width, window.height)

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Work inside GDAL's environment and turn its errors into ours.

        Every access to the dataset belongs inside: outside an environment GDAL prints to stderr.
        """
        # UnicodeError: a name in the file is no UTF-8.
        failures: tuple[type[Exception], ...] = (*gdal_errors(), UnicodeError)
        try:
            with gdal_environment():
                yield
        except MemoryError as error:
            raise RasterError(f"{self.path} {what} (out of memory); read a smaller window") from error
        except failures as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            expected = "expected a readable GeoTIFF or another raster that GDAL opens"
            raise RasterError(f"{self.path} {what} ({reason}); {expected}") from error


def _groups(numbers: NDArray[np.intp], block: int, most: int) -> Iterator[slice]:
    """Parts of increasing pixel numbers that lie in the same run of whole blocks, some ``most`` px long."""
    run = numbers // (block * max(1, most // block))
    edges = np.flatnonzero(np.diff(run, prepend=-1, append=run[-1] + 1))
    for start, stop in itertools.pairwise(edges.tolist()):
        yield slice(start, stop)


def _choose_bands(path: Path, dataset: Any, bands: tuple[int, ...] | None) -> tuple[int, int, int]:
    if bands is None:
        names = [interpretation.name for interpretation in dataset.colorinterp]
        if all(name in names for name in ("red", "green", "blue")):
            return names.index("red") + 1, names.index("green") + 1, names.index("blue") + 1
        return (1, 2, 3) if dataset.count >= 3 else (1, 1, 1)
    if len(bands) not in (1, 3):
        raise RasterError(f"{len(bands)} bands {bands} were asked of {path}; give one or three band numbers")
    for band in bands:
        if not 1 <= band <= dataset.count:
            raise RasterError(f"{path} has bands 1 to {dataset.count}, but band {band} was asked for")
    return (bands[0],) * 3 if len(bands) == 1 else (bands[0], bands[1], bands[2])


def _equals(band: NDArray[Any], value: float | None) -> NDArray[np.bool_]:
    if value is None:
        return np.zeros(band.shape, dtype=bool)
    if math.isnan(value):
        return np.isnan(band) if band.dtype.kind == "f" else np.zeros(band.shape, dtype=bool)
    # A float32 raster stores its nodata value rounded; compare in the raster's own type.
    if band.dtype.kind == "f":
        return np.asarray(band == band.dtype.type(value))
    return np.asarray(band == value)
