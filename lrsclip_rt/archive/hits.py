"""What a search answers: small frozen objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, overload

from lrsclip_rt.archive.footprints import Bbox, Rings, geometry_from_rings
from lrsclip_rt.tiles import Window

__all__ = ["Hit", "Hits"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One place that a query found.

    Attributes:
        rank: 1, 2, ...
        score: Cosine of query and tile.
        z: The score in standard deviations above the mean of the archive's sample.
        id: 32 hex digits, equal on every machine.
        source: Path of the file.
        window: Full-resolution source pixels.
        datetime: ISO 8601, UTC; None where unknown.
        bbox: west, south, east, north [deg]; west > east across the antimeridian; None without a place.
        level: Nominal tile edge [px]; 0 for a whole image.
        count: Tiles of this place that ranked before the first place after the last hit, this one included.
        footprint: Rings in lon, lat; empty without a place.
    """

    rank: int
    score: float
    z: float
    id: str
    source: str
    window: Window
    datetime: str | None
    bbox: Bbox | None
    level: int
    count: int = 1
    footprint: Rings = field(default=(), repr=False)

    def as_row(self) -> dict[str, Any]:
        """The columns of every search output, as JSON values; degrees to a centimetre."""
        return {
            "rank": self.rank,
            "score": round(self.score, 6),
            "z": round(self.z, 4),
            "id": self.id,
            "source": self.source,
            "window": self.window.as_list(),
            "datetime": self.datetime,
            "bbox": None if self.bbox is None else [round(degree, 7) for degree in self.bbox],
        }

    def as_feature(self) -> dict[str, Any]:
        """A GeoJSON feature (RFC 7946); its geometry is null without a place."""
        row = self.as_row()
        bbox = row.pop("bbox")
        feature: dict[str, Any] = {"type": "Feature", "id": self.id}
        if bbox is not None:
            feature["bbox"] = bbox
        feature["geometry"] = geometry_from_rings(self.footprint)
        feature["properties"] = {**row, "level": self.level, "count": self.count}
        return feature


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one query, best first.

    Attributes:
        hits: Empty where nothing passed the filter or the query is judged absent.
        presence: Mean of the best cosines among the rows that passed (of how many, ``presence_hits`` says);
            None without rows.
        present: Whether ``presence`` reaches the threshold; None where none was given.
        rows: Rows that passed the filter.
        without_place: Rows left out because the filter asks for a place and they have none.
        without_time: Rows left out because the filter asks for a time and they have none.
        without_metadata: Rows left out because the filter asks for metadata and their source has no such key.
        best: Best cosine among the rows that passed, also where there are no hits; None without rows.

    Example:
        >>> Hits(hits=(), presence=None, present=None, rows=0)
        Hits(0 of 0 rows)
    """

    hits: tuple[Hit, ...]
    presence: float | None
    present: bool | None
    rows: int
    without_place: int = 0
    without_time: int = 0
    without_metadata: int = 0
    best: float | None = None

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __repr__(self) -> str:
        best = f", best {self.hits[0].score:.3f} {self.hits[0].source}" if self.hits else ""
        absent = ", absent" if self.present is False else ""
        return f"Hits({len(self.hits)} of {self.rows} rows{best}{absent})"
