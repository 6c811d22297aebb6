"""What one archive says about a source, on its way into another: paths, metadata, finished grids."""

from __future__ import annotations

from dataclasses import dataclass

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.records import ContentRecord, Location
from lrsclip_rt.archive.writing import ArchiveWriter

__all__ = ["SourceCopy", "copy_source", "sources_of"]


@dataclass(frozen=True, slots=True)
class SourceCopy:
    """A source as an archive knows it.

    Attributes:
        number: In that archive.
        content: What it is.
        locations: Where it lies.
        metadata: Keys and values.
        grids: ``(level, overlap, windows, skipped)`` of every finished grid.
    """

    number: int
    content: ContentRecord
    locations: tuple[Location, ...]
    metadata: dict[str, str]
    grids: tuple[tuple[int, float, int, int], ...]


def sources_of(catalog: Catalog) -> list[SourceCopy]:
    """Every source. Ask before the snapshot of rows is taken: a grid that is finished now has all of them."""
    copies = []
    for (number,) in catalog.rows("SELECT source FROM sources ORDER BY source"):
        places = catalog.rows(
            "SELECT roots.path, locations.path, mtime_ns FROM locations JOIN roots USING (root)"
            " WHERE source = ? ORDER BY root, locations.path",
            (number,),
        )
        pairs = catalog.rows("SELECT key, value FROM metadata WHERE source = ?", (number,))
        grids = catalog.rows("SELECT level, overlap, windows, skipped FROM grids WHERE source = ?", (number,))
        copies.append(
            SourceCopy(
                number,
                catalog.content(number),
                tuple(Location(*place) for place in places),
                dict(pairs),
                tuple((level, overlap, windows, skipped) for level, overlap, windows, skipped in grids),
            )
        )
    return copies


def copy_source(writer: ArchiveWriter, source: SourceCopy, *, complete: bool = True) -> int:
    """Record a source in another archive; its grids only where all its tiles are there.

    Returns:
        Its number there.

    Raises:
        ArchiveError: If it is there, read in another way.
    """
    number = writer.add_source(source.content)
    for location in source.locations:
        writer.add_location(number, location)
    writer.add_metadata(number, source.metadata)
    for level, overlap, windows, skipped in source.grids if complete else ():
        writer.finish_grid(number, level=level, overlap=overlap, windows=windows, skipped=skipped)
    return number
