"""What an archive holds already, by content: so that nothing is embedded twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.plans import Grid, IndexOptions, grids_of
from lrsclip_rt.archive.records import ContentRecord
from lrsclip_rt.archive.schema import DATABASE, connect_to_read
from lrsclip_rt.errors import ArchiveError

__all__ = ["HeldSource", "HeldSources"]


@dataclass(frozen=True, slots=True)
class HeldSource:
    """A source of the archive: its number, its content, and how to ask for the rest."""

    number: int
    content: ContentRecord
    catalog: Catalog

    def missing_grids(self, options: IndexOptions) -> tuple[Grid, ...]:
        """The grids that these options ask for and that are not complete."""
        query = "SELECT level, overlap FROM grids WHERE source = ?"
        done = set(self.catalog.rows(query, (self.number,)))
        return tuple(g for g in grids_of(self.content, options) if (g.level, g.overlap) not in done)

    def tile_ids(self) -> set[str]:
        """Ids of its tiles."""
        return {row[0] for row in self.catalog.rows("SELECT id FROM tiles WHERE source = ?", (self.number,))}

    def check_reading(self, options: IndexOptions) -> None:
        """Refuse to add tiles that were read in another way.

        Raises:
            ArchiveError: If bands, nodata value or stretch differ.
        """
        if dict(self.content.reading) != options.reading:
            before, now = dict(self.content.reading) or "the defaults", options.reading or "the defaults"
            raise ArchiveError(
                f"its pixels were read with {before} when it was indexed, now with {now}. "
                "Index it with the same options, or into another archive"
            )


class HeldSources:
    """The sources of an archive, as of its last commit; used by one thread.

    Args:
        folder: The archive.

    Raises:
        ArchiveError: If it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._database = connect_to_read(folder)
        self._catalog = Catalog(self._database, folder / DATABASE)

    def source(self, sha256: str) -> HeldSource | None:
        """The source of a content hash; None where there is none."""
        found = self._catalog.rows("SELECT source FROM sources WHERE content_sha256 = ?", (sha256,))
        if not found:
            return None
        number = int(found[0][0])
        return HeldSource(number, self._catalog.content(number), self._catalog)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
