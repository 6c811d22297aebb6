"""Everything an archive records about its sources, for handing it on: to a file or to another database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.records import ContentRecord, Location

__all__ = ["CLOUD_KEY", "GridRecord", "SourceFacts", "facts_of_sources"]

CLOUD_KEY = "eo:cloud_cover"
"""Metadata that becomes a column of its own: cloud cover [%], by STAC's name."""

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class GridRecord:
    """A finished grid of a source: level, overlap, its windows, and how many of them were skipped."""

    level: int
    overlap: float
    windows: int
    skipped: int


@dataclass(slots=True)
class SourceFacts:
    """A source with all that hangs on it.

    Attributes:
        content: Its content.
        locations: Where it lay when it was indexed, in order.
        metadata: Keys and values.
        grids: Finished grids.
    """

    content: ContentRecord
    locations: list[Location] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    grids: list[GridRecord] = field(default_factory=list)

    @property
    def href(self) -> str:
        """Its path, or where it has none the ``source_href`` of its metadata, or its content's hash."""
        if self.locations:
            paths = [location.absolute() for location in self.locations]
            return str(next((path for path in paths if len(paths) > 1 and path.exists()), paths[0]))
        return self.metadata.get("source_href", f"sha256:{self.content.content_sha256}")

    @property
    def cloud_percent(self) -> float | None:
        """Cloud cover [%] from the metadata; None where there is none or it is no number."""
        try:
            return float(self.metadata[CLOUD_KEY])
        except (KeyError, ValueError):
            return None


def facts_of_sources(catalog: Catalog, numbers: Iterable[int]) -> dict[int, SourceFacts]:
    """Facts of sources by their number in the archive.

    Raises:
        ArchiveCorruptError: If the database makes no sense.
    """
    wanted = sorted(set(numbers))
    found: dict[int, SourceFacts] = {}
    with reading(catalog.path):
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            found.update(_facts(catalog, part))
    return found


def _facts(catalog: Catalog, numbers: list[int]) -> dict[int, SourceFacts]:
    marks = ",".join("?" * len(numbers))
    columns = "source, content_sha256, size_bytes, width, height, crs, transform, gsd_m, time_us, reading"
    found = {
        int(row[0]): SourceFacts(_content(row[1:]))
        for row in catalog.rows(f"SELECT {columns} FROM sources WHERE source IN ({marks})", numbers)
    }
    located = (
        "SELECT source, roots.path, locations.path, mtime_ns FROM locations JOIN roots USING (root)"
        f" WHERE source IN ({marks}) ORDER BY source, root, locations.path"
    )
    for source, root, path, mtime_ns in catalog.rows(located, numbers):
        found[source].locations.append(Location(root, path, mtime_ns))
    described = f"SELECT source, key, value FROM metadata WHERE source IN ({marks}) ORDER BY source, key"
    for source, key, value in catalog.rows(described, numbers):
        found[source].metadata[key] = value
    grids = (
        f"SELECT source, level, overlap, windows, skipped FROM grids WHERE source IN ({marks})"
        " ORDER BY source, level, overlap"
    )
    for source, *grid in catalog.rows(grids, numbers):
        found[source].grids.append(GridRecord(*grid))
    return found


def _content(row: tuple[Any, ...]) -> ContentRecord:
    sha256, size_bytes, width, height, crs, transform, gsd_m, time_us, how = row
    affine = None if transform is None else tuple(float(value) for value in json.loads(transform))
    return ContentRecord(sha256, size_bytes, width, height, crs, affine, gsd_m, time_us, json.loads(how))
