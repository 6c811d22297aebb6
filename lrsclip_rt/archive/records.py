"""What goes into an archive and what comes back out of its database, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrsclip_rt.archive.footprints import Bbox, Rings
from lrsclip_rt.tiles import Window

__all__ = ["ContentRecord", "Location", "ModelRecord", "NewTile", "Producer", "SegmentRecord", "TileRecord"]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The model whose vectors an archive holds.

    Attributes:
        identity: Hex SHA-256 of checkpoint hash and preprocessing (``Bundle.identity``).
        name: A short name for people.
        dim: D.
        bundle_path: Where the whole bundle was when the archive was made, or None for the built-in.
    """

    identity: str
    name: str
    dim: int
    bundle_path: str | None = None

    def __str__(self) -> str:
        return f"{self.name} (identity {self.identity[:12]}, D = {self.dim})"


@dataclass(frozen=True, slots=True)
class Producer:
    """What computes the vectors of a writing session.

    Attributes:
        precision: Of the image tower, for example ``fp32``.
        backend: The inference library.
        gate_passed: Whether the precision's parity report reaches its gate; fp32 is the yardstick.
    """

    precision: str
    backend: str
    gate_passed: bool = True


@dataclass(frozen=True, slots=True)
class ContentRecord:
    """One source: a file's content, wherever copies of it lie.

    Attributes:
        content_sha256: SHA-256 of its bytes, 64 hex digits.
        size_bytes: Its length.
        width: Columns [px].
        height: Rows [px].
        crs: "EPSG:n" or WKT; None without.
        transform: Affine a, b, c, d, e, f from pixels to the CRS; None without.
        gsd_m: Ground distance of a pixel [m]; None where unknown.
        time_us: Microseconds since the epoch, UTC; None where unknown.
        reading: How its pixels were read (bands, nodata, stretch), as JSON values; empty for the defaults.
    """

    content_sha256: str
    size_bytes: int
    width: int
    height: int
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    gsd_m: float | None = None
    time_us: int | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a source lies: a path below a named root.

    Attributes:
        root: Absolute folder of the root.
        path: The rest, with ``/``.
        mtime_ns: Modification time of the file when it was indexed.
    """

    root: str
    path: str
    mtime_ns: int = 0

    def absolute(self) -> Path:
        """The path as it was when the file was indexed."""
        return Path(self.root) / self.path


@dataclass(frozen=True, slots=True)
class NewTile:
    """A tile about to be appended.

    Attributes:
        level: Nominal tile edge [px]; 0 for a whole image.
        window: Full-resolution source pixels.
        bbox: west, south, east, north [deg]; west > east across the antimeridian; None without a place.
        footprint: Rings in lon, lat; empty without a place.
        time_us: Microseconds since the epoch, UTC; None where unknown.
        nodata_fraction: Share of pixels without data; None where not measured.
    """

    level: int
    window: Window
    bbox: Bbox | None = None
    footprint: Rings = ()
    time_us: int | None = None
    nodata_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class TileRecord:
    """A tile of an archive.

    Attributes:
        id: 32 hex digits.
        row: Its row in the archive, counted over all segments.
        source: Number of its source in this archive.
        tile: Everything that was appended.
    """

    id: str
    row: int
    source: int
    tile: NewTile


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A segment as the database records it.

    Attributes:
        number: 1, 2, ...; the files are ``segments/000001.*``.
        base: Global number of its first row.
        rows: Committed rows, dead ones included.
        producer: What computed its vectors.
        dead: Runs of deleted rows, ``(first row, rows)`` in order.
    """

    number: int
    base: int
    rows: int
    producer: Producer
    dead: tuple[tuple[int, int], ...] = ()

    @property
    def living(self) -> int:
        """Rows that were not deleted."""
        return self.rows - sum(rows for _, rows in self.dead)
