"""A searchable archive of tile embeddings: one folder, one writer, many readers."""

from __future__ import annotations

from lrsclip_rt.archive.area import Area
from lrsclip_rt.archive.conditions import Condition
from lrsclip_rt.archive.hits import Hit, Hits
from lrsclip_rt.archive.ids import tile_id
from lrsclip_rt.archive.records import ContentRecord, Location, ModelRecord, NewTile, Producer, TileRecord
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.where import Where
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
