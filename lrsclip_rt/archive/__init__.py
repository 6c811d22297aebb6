"""A searchable archive of tile embeddings: one folder, one writer, many readers.

The writing side is imported when it is first named: a search starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrsclip_rt.archive.areas.area import Area
from lrsclip_rt.archive.conditions import Condition
from lrsclip_rt.archive.hits import Hit, Hits
from lrsclip_rt.archive.ids import tile_id
from lrsclip_rt.archive.records import ContentRecord, Location, ModelRecord, NewTile, Producer, TileRecord
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.where import Where

if TYPE_CHECKING:
    from lrsclip_rt.archive.writing import ArchiveWriter

__all__ = [
    "Archive",
    "ArchiveWriter",
    "Area",
    "Condition",
    "ContentRecord",
    "Hit",
    "Hits",
    "Location",
    "ModelRecord",
    "NewTile",
    "Producer",
    "TileRecord",
    "Where",
    "tile_id",
]


def __getattr__(name: str) -> Any:
    if name == "ArchiveWriter":
        from lrsclip_rt.archive.writing import ArchiveWriter

        return ArchiveWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
