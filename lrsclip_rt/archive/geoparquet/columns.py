"""Columns of a GeoParquet file from rows of an archive: the schema and one record batch after the other."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import Bbox, Rings, boxes_of, wkb_from_rings
from lrsclip_rt.archive.segments import int8_from_rows
from lrsclip_rt.errors import DependencyError, InputError
from lrsclip_rt.tiles import Window

__all__ = ["ColumnType", "GeoRow", "Layout", "Totals", "VectorType", "coordinate_range", "import_pyarrow"]

VectorType = Literal["float16", "float32", "int8"]
ColumnType = Literal["string", "float64", "int32", "int64", "bool"]

_POINT = 1


@dataclass(frozen=True, slots=True, eq=False)
class GeoRow:
    """One row of a file.

    Attributes:
        id: 32 hex digits.
        source_href: Path or URL of the source.
        window: Full-resolution source pixels.
        level: Nominal tile edge [px]; 0 for a whole image.
        bbox: west, south, east, north [deg]; west > east across the antimeridian; None without a place.
        footprint: Rings in lon, lat; where there is none, the box stands for it.
        time_us: Microseconds since the epoch, UTC.
        crs: CRS of the source, "EPSG:n" or WKT.
        gsd_m: Ground distance of a source pixel [m].
        nodata_fraction: Share of pixels without data.
        cloud_percent: Cloud cover of the source [%].
        vector: ``(D,)`` floating unit row; needed where the file holds vectors.
        extra: Values of the extra columns.
    """

    id: str
    source_href: str
    window: Window
    level: int
    bbox: Bbox | None = None
    footprint: Rings = ()
    time_us: int | None = None
    crs: str | None = None
    gsd_m: float | None = None
    nodata_fraction: float | None = None
    cloud_percent: float | None = None
    vector: NDArray[np.floating[Any]] | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


def import_pyarrow() -> Any:
    """The module ``pyarrow`` with ``pyarrow.parquet`` loaded.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError.of("pyarrow", extra="geo") from error
    return pyarrow


def coordinate_range(bbox: Bbox) -> Bbox:
    """The least box with west <= east around a box; across the antimeridian it spans all longitudes.

    Readers compare ``bbox.xmin`` and ``bbox.xmax`` as plain numbers, and must not lose a row by it.

    Example:
        >>> coordinate_range((179.0, -18.0, -179.0, -17.0))
        (-180.0, -18.0, 180.0, -17.0)
    """
    parts = boxes_of(bbox)
    return min(p[0] for p in parts), bbox[1], max(p[2] for p in parts), bbox[3]


@dataclass(slots=True)
class Totals:
    """What a file holds, counted while it is written; ``kinds`` are its geometry types."""

    rows: int = 0
    without_place: int = 0
    row_groups: int = 0
    extent: Bbox | None = None
    first_time_us: int | None = None
    last_time_us: int | None = None
    kinds: set[str] = field(default_factory=set)

    def take(self, row: GeoRow, kind: str | None) -> None:
        """Count a row whose geometry is of this type."""
        self.rows += 1
        if row.bbox is None or kind is None:
            self.without_place += 1
        else:
            self.kinds.add(kind)
            west, south, east, north = coordinate_range(row.bbox)
            held = self.extent or (math.inf, math.inf, -math.inf, -math.inf)
            self.extent = (min(held[0], west), min(held[1], south), max(held[2], east), max(held[3], north))
        if row.time_us is not None:
            times = [t for t in (self.first_time_us, self.last_time_us, row.time_us) if t is not None]
            self.first_time_us, self.last_time_us = min(times), max(times)


class Layout:
    """The schema of a file, and record batches from rows.

    Args:
        pyarrow: The module.
        model_id: Goes into every row.
        dim: D.
        vectors: Type of the column ``embedding``; None leaves it out.
        extra: Names and types of further columns.
    """

    def __init__(
        self, pyarrow: Any, model_id: str, dim: int, vectors: VectorType | None, extra: dict[str, ColumnType]
    ) -> None:
        self._pa, self._model_id, self._dim = pyarrow, model_id, dim
        self.vectors, self._extra = vectors, extra
        pa = pyarrow
        corner = [pa.field(name, pa.float64(), nullable=False) for name in ("xmin", "ymin", "xmax", "ymax")]
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("geometry", pa.binary()),
            pa.field("bbox", pa.struct(corner)),
            pa.field("datetime", pa.timestamp("us", tz="UTC")),
            pa.field("source_href", pa.string()),
            pa.field("pixel_bbox", pa.list_(pa.int32(), 4)),
            pa.field("level", pa.int32()),
            pa.field("proj:code", pa.string()),
            pa.field("proj:wkt2", pa.string()),
            pa.field("gsd", pa.float64()),
            pa.field("nodata_fraction", pa.float64()),
            pa.field("cloud_percent", pa.float64()),
            pa.field("model_id", pa.string()),
            # No list: older versions of Arrow cannot read lists of a fixed size that are null.
            pa.field("antimeridian", pa.struct([(side, pa.float64()) for side in ("west", "east")])),
        ]
        kinds = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}
        if vectors is not None:
            fields.append(pa.field("embedding", pa.list_(pa.field("element", kinds[vectors]), dim)))
        if vectors == "int8":
            fields.append(pa.field("embedding_scale", pa.float32()))
        types = {
            "string": pa.string(),
            "float64": pa.float64(),
            "int32": pa.int32(),
            "int64": pa.int64(),
            "bool": pa.bool_(),
        }
        fields += [pa.field(name, types[kind]) for name, kind in extra.items()]
        self.schema = pa.schema(fields)
        self.repetitive = [f.name for f in fields if f.type == pa.string() and f.name != "id"]
        plain = [f.name for f in fields if f.name not in ("geometry", "embedding", "bbox")]
        self.measured = [*plain, *(f"bbox.{f.name}" for f in corner)]

    def batch(self, rows: Sequence[GeoRow], totals: Totals) -> Any:
        """Rows as one record batch; ``totals`` learns of them."""
        pa = self._pa
        geometries = [_geometry(row) for row in rows]
        for row, geometry in zip(rows, geometries, strict=True):
            totals.take(row, None if geometry is None else geometry[0])
        codes = [row.crs if row.crs and row.crs.startswith("EPSG:") else None for row in rows]
        windows = [row.window for row in rows]
        corners = [(w.col_off, w.row_off, w.col_off + w.width, w.row_off + w.height) for w in windows]
        columns: dict[str, Any] = {
            "id": [row.id for row in rows],
            "geometry": [None if geometry is None else geometry[1] for geometry in geometries],
            "bbox": [_corners(row, geometry) for row, geometry in zip(rows, geometries, strict=True)],
            "datetime": pa.array([row.time_us for row in rows], pa.int64()).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "source_href": [row.source_href for row in rows],
            "pixel_bbox": corners,
            "level": [row.level for row in rows],
            "proj:code": codes,
            "proj:wkt2": [row.crs if code is None else None for row, code in zip(rows, codes, strict=True)],
            "gsd": [row.gsd_m for row in rows],
            "nodata_fraction": [row.nodata_fraction for row in rows],
            "cloud_percent": [row.cloud_percent for row in rows],
            "model_id": [self._model_id] * len(rows),
            "antimeridian": [_crossing(row.bbox) for row in rows],
            **self._vector_columns(rows),
            **{name: [row.extra.get(name) for row in rows] for name in self._extra},
        }
        arrays = [
            columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type)
            for f in self.schema
        ]
        return pa.record_batch(arrays, schema=self.schema)

    def _vector_columns(self, rows: Sequence[GeoRow]) -> dict[str, Any]:
        if self.vectors is None:
            return {}
        pa = self._pa
        bad = next((row for row in rows if row.vector is None or row.vector.shape != (self._dim,)), None)
        if bad is not None:
            found = "no vector" if bad.vector is None else f"a vector of shape {bad.vector.shape}"
            raise InputError(f"row {bad.id} has {found}, expected ({self._dim},)")
        if not rows:
            values = np.empty((0, self._dim), np.float32)
        else:
            values = np.stack([row.vector for row in rows if row.vector is not None])
        if self.vectors != "int8":
            values = values.astype(self.vectors)
            return {"embedding": self._lists(values)}
        codes, scale = int8_from_rows(values.astype(np.float16))
        return {"embedding": self._lists(codes), "embedding_scale": pa.array(scale, pa.float32())}

    def _lists(self, values: NDArray[Any]) -> Any:
        flat = self._pa.array(values.reshape(-1))
        return self._pa.FixedSizeListArray.from_arrays(flat, type=self.schema.field("embedding").type)


def _geometry(row: GeoRow) -> tuple[str, bytes] | None:
    """The geometry type and the WKB of a row.

    The box stands for a footprint that is not there, and a point for a box without area.
    """
    if row.bbox is None:
        return None
    if row.footprint:
        rings = row.footprint
    else:
        west, south, east, north = row.bbox
        if west == east and south == north:
            return "Point", struct.pack("<BIdd", 1, _POINT, west, south)
        rings = tuple(_box_ring(box) for box in boxes_of(row.bbox))
    return ("Polygon" if len(rings) == 1 else "MultiPolygon"), wkb_from_rings(rings)


def _box_ring(box: Bbox) -> tuple[tuple[float, float], ...]:
    west, south, east, north = box
    return (west, south), (east, south), (east, north), (west, north), (west, south)


def _corners(row: GeoRow, geometry: tuple[str, bytes] | None) -> dict[str, float] | None:
    if row.bbox is None or geometry is None:
        return None
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), coordinate_range(row.bbox), strict=True))


def _crossing(bbox: Bbox | None) -> dict[str, float] | None:
    return {"west": bbox[0], "east": bbox[2]} if bbox is not None and bbox[0] > bbox[2] else None
