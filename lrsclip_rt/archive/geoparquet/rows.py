"""Rows of an embedding table as sources and tiles of an archive.

Our own exports name their sources. The rows of others become sources without a file, whose content hash
is the SHA-256 of this ASCII text, so that the same row has the same tile id in every archive::

    lrsclip-import-1/<kind>/<JSON list of what identifies the source>

======================  ======================================================================
kind                    what identifies the source
======================  ======================================================================
``major-tom``           product_id and grid_cell, the window is pixel_bbox; else unique_id
``clay-v0``             source_url, date, hex of the geometry's WKB
``planet``              id where there is one; else both times and hex of the geometry's WKB
``earth-index``         id
======================  ======================================================================

Times stand in it as microseconds since 1970-01-01 UTC, what is missing as null. Where the pixels of a row are
not known its window is ``[0, 0, 1, 1]`` at level 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import Bbox, check_bbox
from lrsclip_rt.archive.geoparquet.columns import import_pyarrow
from lrsclip_rt.archive.geoparquet.reading import ParquetTable, RowBatch
from lrsclip_rt.archive.ids import WHOLE_IMAGE, tile_id
from lrsclip_rt.archive.records import ContentRecord, Location, NewTile, Producer
from lrsclip_rt.archive.source_facts import GridRecord
from lrsclip_rt.archive.times import interval_us, time_us_from_text
from lrsclip_rt.archive.wkb_reading import place_from_wkb
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["ImportedRow", "imported_rows"]

_UNIT_TOLERANCE = 1e-2
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_MOST_PX = 2**31 - 1
_TIME_COLUMNS = {"major-tom": "timestamp", "clay-v0": "date", "planet": "start_datetime"}
_KEPT: dict[str, tuple[str, ...]] = {
    "major-tom": ("product_id", "grid_cell", "unique_id", "utm_crs"),
    "clay-v0": (),
    "planet": ("id", "start_datetime", "end_datetime"),
    "earth-index": ("id",),
}
_OWN_SOURCE = (
    "content_sha256 source_bytes source_width source_height proj:code proj:wkt2 source_transform gsd"
    " source_time_us source_reading source_locations metadata source_grids"
).split()
_HREFS = {"major-tom": "product_id", "clay-v0": "source_url"}


@dataclass(frozen=True, slots=True, eq=False)
class ImportedRow:
    """A row on its way into an archive.

    Attributes:
        content: Its source.
        tile: The tile.
        vector: ``(D,)`` float32 unit row.
        producer: What computed the vector, where the file says so.
        locations: Where the source lay.
        metadata: Of the source.
        grids: Finished grids of the source.
    """

    content: ContentRecord
    tile: NewTile
    vector: NDArray[np.float32]
    producer: Producer | None = None
    locations: tuple[Location, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    grids: tuple[GridRecord, ...] = ()


def imported_rows(table: ParquetTable, batch: RowBatch) -> Iterator[ImportedRow]:
    """The rows of a batch, checked.

    Raises:
        InputError: If a value has the wrong type or makes no sense; it names the file and the row.
    """
    vectors = _unit_rows(table, batch)
    times = _times(table, batch)
    names = [name for name in batch.columns if name not in ("utm_footprint", _TIME_COLUMNS.get(table.kind))]
    values = {name: _python_values(table, batch, name, batch.columns[name]) for name in names}
    decode = _own_row if table.kind == "lrsclip" else _foreign_row
    for index in range(len(batch)):
        row = {name: column[index] for name, column in values.items()}
        with _naming(table, batch.first + index):
            yield decode(table.kind, row, vectors[index], times[index])


def _own_row(kind: str, row: dict[str, Any], vector: NDArray[np.float32], time_us: int | None) -> ImportedRow:
    content, locations, metadata, grids = _own_source(*(row[name] for name in _OWN_SOURCE))
    wkb = row["geometry"]
    bbox, rings = (None, ()) if wkb is None else place_from_wkb(wkb)
    if bbox is not None:
        bbox = _own_bbox(row)
    window = _window(row["pixel_bbox"])
    if window is None:
        raise InputError("pixel_bbox is missing")
    level, nodata_fraction = _number(row["level"], "level"), _real(row["nodata_fraction"], "nodata_fraction")
    tile = NewTile(level, window, bbox, rings, time_us, nodata_fraction)
    named = tile_id(content.content_sha256, tile.level, window)
    if row["id"] != named:
        raise InputError(f"its id is {row['id']}, but its source, level and window give {named}")
    precision, backend = _text(row["precision"], "precision"), _text(row["backend"], "backend")
    producer = Producer(precision, backend, row["gate_passed"] is True)
    return ImportedRow(content, tile, vector, producer, locations, metadata, grids)


@lru_cache(maxsize=4_096)
def _own_source(
    sha256: Any,
    size_bytes: Any,
    width: Any,
    height: Any,
    code: Any,
    wkt: Any,
    transform: Any,
    gsd_m: Any,
    time_us: Any,
    reading: Any,
    locations: Any,
    metadata: Any,
    grids: Any,
) -> tuple[ContentRecord, tuple[Location, ...], dict[str, str], tuple[GridRecord, ...]]:
    """What the rows of a source repeat; tiles of a source lie near each other in a file."""
    crs = code or wkt
    content = ContentRecord(
        _text(sha256, "content_sha256"),
        _number(size_bytes, "source_bytes"),
        _number(width, "source_width"),
        _number(height, "source_height"),
        crs=None if crs is None else str(crs),
        transform=None if transform is None else tuple(float(value) for value in json.loads(transform)),
        gsd_m=_real(gsd_m, "gsd"),
        time_us=None if time_us is None else _checked_time(time_us),
        reading=_mapping(reading, "source_reading"),
    )
    located = json.loads(_text(locations, "source_locations"))
    finished = json.loads(_text(grids, "source_grids"))
    return (
        content,
        tuple(Location(str(root), str(path), int(mtime_ns)) for root, path, mtime_ns in located),
        {str(key): str(value) for key, value in _mapping(metadata, "metadata").items()},
        tuple(GridRecord(int(a), float(b), int(c), int(d)) for a, b, c, d in finished),
    )


def _own_bbox(row: dict[str, Any]) -> Bbox:
    corners, crossing = row["bbox"], row["antimeridian"]
    west, east = corners["xmin"], corners["xmax"]
    if crossing is not None:
        west, east = crossing["west"], crossing["east"]
    return check_bbox((west, corners["ymin"], east, corners["ymax"]))


def _foreign_row(
    kind: str, row: dict[str, Any], vector: NDArray[np.float32], time_us: int | None
) -> ImportedRow:
    wkb = row.get("geometry")
    if wkb is not None and not isinstance(wkb, bytes):
        raise InputError(f"its geometry is {type(wkb).__name__}, expected WKB")
    bbox, rings = (None, ()) if wkb is None else place_from_wkb(wkb)
    if bbox is None and row.get("centre_lon") is not None and row.get("centre_lat") is not None:
        lon, lat = float(row["centre_lon"]), float(row["centre_lat"])
        bbox = check_bbox((lon, lat, lon, lat))
    key, window = _identity(kind, row, wkb, time_us)
    text = f"lrsclip-import-1/{kind}/{json.dumps(key)}"
    sha256 = hashlib.sha256(text.encode("ascii")).hexdigest()
    known = window or Window(0, 0, 1, 1)
    level = WHOLE_IMAGE if window is None else max(window.width, window.height)
    width, height = known.col_off + known.width, known.row_off + known.height
    metadata = {"import_kind": kind}
    for name in _KEPT[kind]:
        if row.get(name) is not None:
            metadata[name] = str(row[name])
    href = row.get(_HREFS.get(kind, ""))
    if href is not None:
        metadata["source_href"] = str(href)
    content = ContentRecord(sha256, 0, width, height, time_us=time_us)
    return ImportedRow(content, NewTile(level, known, bbox, rings, time_us), vector, metadata=metadata)


def _identity(
    kind: str, row: dict[str, Any], wkb: bytes | None, time_us: int | None
) -> tuple[list[str | int | None], Window | None]:
    place = None if wkb is None else wkb.hex()
    if kind == "major-tom":
        window = _window(row.get("pixel_bbox"))
        if window is not None and row.get("product_id") is not None:
            return [_text(row["product_id"], "product_id"), _text(row["grid_cell"], "grid_cell")], window
        return [_text(row["unique_id"], "unique_id")], None
    if kind == "clay-v0":
        return [_text(row["source_url"], "source_url"), time_us, place], None
    if kind == "planet" and row.get("id") is None:
        return [time_us, _moment(row["end_datetime"]), place], None
    identifier = row["id"]
    if not isinstance(identifier, (str, int)):
        raise InputError(f"its id is {identifier!r}, expected a text or a whole number")
    return [identifier], None


def _unit_rows(table: ParquetTable, batch: RowBatch) -> NDArray[np.float32]:
    """The vectors of others become unit rows; ours are, and stay as they are to the last bit."""
    lengths = np.linalg.norm(batch.vectors.astype(np.float64), axis=1, keepdims=True)
    least = 1.0 - _UNIT_TOLERANCE if table.kind == "lrsclip" else np.finfo(np.float32).tiny
    most = 1.0 + _UNIT_TOLERANCE if table.kind == "lrsclip" else np.inf
    wrong = (lengths[:, 0] < least) | (lengths[:, 0] > most)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise InputError(
            f"{table.path}: the vector of row {batch.first + index} has length {lengths[index, 0]:.4g}, "
            f"expected {'1' if table.kind == 'lrsclip' else 'more than 0'}"
        )
    if table.kind == "lrsclip" and not table.lossy:
        return batch.vectors
    unit: NDArray[np.float32] = (batch.vectors / lengths).astype(np.float32)
    return unit


def _times(table: ParquetTable, batch: RowBatch) -> list[int | None]:
    """Microseconds since the epoch of every row, from timestamps, dates or texts."""
    array = batch.columns.get("datetime" if table.kind == "lrsclip" else _TIME_COLUMNS.get(table.kind, ""))
    if array is None:
        return [None] * len(batch)
    pa = import_pyarrow()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        times: list[int | None] = []
        for index, text in enumerate(_python_values(table, batch, "of times", array)):
            with _naming(table, batch.first + index):
                times.append(None if text is None else time_us_from_text(_iso(text)))
        return times
    if not pa.types.is_timestamp(array.type) and not pa.types.is_date(array.type):
        raise InputError(f"{table.path}: the times are {array.type}, expected timestamps, dates or texts")
    # A time zone changes how a timestamp is shown, not the moment that it counts.
    with _naming(table, batch.first):
        moments = array.cast(pa.timestamp("us", tz=getattr(array.type, "tz", None)), safe=False)
        moments = moments.cast(pa.int64())
    checked = []
    for index, time_us in enumerate(moments.to_pylist()):
        with _naming(table, batch.first + index):
            checked.append(None if time_us is None else _checked_time(time_us))
    return checked


def _moment(value: Any) -> int | None:
    """Microseconds since the epoch of a single value."""
    if isinstance(value, str):
        return time_us_from_text(_iso(value))
    return None if value is None else interval_us(value)[0]


def _iso(text: str) -> str:
    """``20240531T102000`` and ``20240531``, as product names have them, with their signs put in."""
    digits = text.strip().removesuffix("Z")
    if len(digits) in (8, 15) and digits.replace("T", "", 1).isdigit():
        day = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
        return day if len(digits) == 8 else f"{day}T{digits[9:11]}:{digits[11:13]}:{digits[13:15]}"
    return text


def _checked_time(time_us: int) -> int:
    if not _FIRST_US <= time_us <= _LAST_US:
        raise InputError(f"the time {time_us} us lies outside of the years 1 to 9999")
    return time_us


def _window(corners: Any) -> Window | None:
    """The window of ``[left, top, right, bottom]``."""
    if corners is None:
        return None
    values = [int(value) for value in corners]
    if len(values) != 4 or values != list(corners) or not all(0 <= value <= _MOST_PX for value in values):
        raise InputError(f"pixel_bbox is {list(corners)}, expected left, top, right, bottom [px]")
    left, top, right, bottom = values
    return Window(left, top, right - left, bottom - top)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}, expected a text")
    return value


def _number(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InputError(f"{name} is {value!r}, expected a whole number")
    return value


def _real(value: Any, name: str) -> float | None:
    if value is not None and not isinstance(value, float):
        raise InputError(f"{name} is {value!r}, expected a number")
    return value


def _mapping(text: Any, name: str) -> dict[str, Any]:
    value = json.loads(_text(text, name))
    if not isinstance(value, dict):
        raise InputError(f"{name} is {value!r}, expected a JSON object")
    return value


def _python_values(table: ParquetTable, batch: RowBatch, name: str, array: Any) -> list[Any]:
    """The values of a column; text that is no UTF-8 and days before the year 1 are none."""
    try:
        values: list[Any] = array.to_pylist()
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"{table.path}: at or behind row {batch.first} the column {name} holds a value that cannot be: "
            f"{error}"
        ) from error
    return values


@contextmanager
def _naming(table: ParquetTable, row: int) -> Iterator[None]:
    """Name file and row in whatever the values of a row raise."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{table.path}, row {row}: {error}") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{table.path}, row {row}: {reason}") from error
