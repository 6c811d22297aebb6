"""A whole archive as one GeoParquet file, from which it can be made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.geoparquet.columns import ColumnType, VectorType
from lrsclip_rt.archive.geoparquet.writing import ROW_GROUP_BYTES, GeoRow, WrittenFile, write_geoparquet
from lrsclip_rt.archive.hilbert import hilbert_order
from lrsclip_rt.archive.records import TileRecord
from lrsclip_rt.archive.scanning import rows_of
from lrsclip_rt.archive.schema import MODEL
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.source_facts import SourceFacts, facts_of_sources
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import BundleError

__all__ = ["SOURCE_COLUMNS", "export_archive", "living_rows", "text_tower_hashes"]

SOURCE_COLUMNS: dict[str, ColumnType] = {
    "content_sha256": "string",
    "source_bytes": "int64",
    "source_width": "int32",
    "source_height": "int32",
    "source_transform": "string",
    "source_time_us": "int64",
    "source_reading": "string",
    "source_locations": "string",
    "source_grids": "string",
    "metadata": "string",
    "precision": "string",
    "backend": "string",
    "gate_passed": "bool",
}
"""Further columns: what is needed to make the archive again. Those that are not plain hold JSON."""

_AT_ONCE = 4_096


def export_archive(
    archive: Archive,
    path: str | Path,
    *,
    vectors: VectorType = "float16",
    row_group_bytes: int = ROW_GROUP_BYTES,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> WrittenFile:
    """Write every row of an archive's snapshot, in Hilbert order of the tiles' centres.

    Memory is bounded by a row group and 48 bytes a row for the order.

    Args:
        archive: An open archive.
        path: The file to make.
        vectors: float16 is what the archive holds; float32 is the same numbers for readers without float16;
            int8 is a quarter of that and loses precision.
        row_group_bytes: Size of a row group before compression [bytes].
        overwrite: Whether an existing file may be replaced.
        progress: Called with the number of rows written.

    Raises:
        InputError: If the file cannot be written.
        OutputExistsError: If it exists.
        DependencyError: If pyarrow is not installed.
    """
    order = _ordered_rows(archive.mapped_segments)
    facts = {
        "format": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {
            "identity": archive.model.identity,
            "name": archive.model.name,
            "dim": archive.dim,
            "bundle_path": archive.model.bundle_path,
        },
        "text_tower": text_tower_hashes(archive),
    }
    return write_geoparquet(
        path,
        _rows(archive, order, progress or (lambda _: None)),
        model_id=archive.model.identity,
        dim=archive.dim,
        vectors=vectors,
        extra=SOURCE_COLUMNS,
        facts=facts,
        row_group_bytes=row_group_bytes,
        overwrite=overwrite,
    )


def living_rows(segment: Segment) -> NDArray[np.int64]:
    """Numbers of a segment's rows that were not deleted, within the segment."""
    if segment.alive is None:
        return np.arange(segment.record.rows, dtype=np.int64)
    return np.flatnonzero(segment.alive).astype(np.int64, copy=False)


def text_tower_hashes(archive: Archive) -> dict[str, str] | None:
    """SHA-256 of every file of the text tower that the archive keeps; None where it keeps none."""
    from lrsclip_rt.bundle import Bundle

    if not (archive.path / MODEL).is_dir():
        return None
    try:
        bundle = Bundle.open(archive.path / MODEL)
    except BundleError:
        return None
    return {name: record.sha256 for name, record in sorted(bundle.files.items())}


def _ordered_rows(segments: tuple[Segment, ...]) -> NDArray[np.int64]:
    if not segments:
        return np.empty(0, np.int64)
    living = [living_rows(segment) for segment in segments]
    boxes = [segment.box[rows] for segment, rows in zip(segments, living, strict=True)]
    rows = [segment.record.base + part for segment, part in zip(segments, living, strict=True)]
    ordered: NDArray[np.int64] = np.concatenate(rows)[hilbert_order(np.concatenate(boxes))]
    return ordered


def _rows(archive: Archive, order: NDArray[np.int64], progress: Callable[[int], None]) -> Iterator[GeoRow]:
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        vectors = rows_of(archive.mapped_segments, part, archive.dim).astype(np.float16)
        tiles = archive.catalog.tiles(part.tolist(), archive.segments)
        facts = facts_of_sources(archive.catalog, (tile.source for tile in tiles.values()))
        extras = {number: _extra(fact) for number, fact in facts.items()}
        for row, vector in zip(part.tolist(), vectors, strict=True):
            if row not in tiles:
                continue  # deleted since the archive was opened
            tile = tiles[row]
            producer = {**extras[tile.source], **_producer(archive, row)}
            yield _geo_row(tile, facts[tile.source], vector, producer)
        progress(len(part))


def _geo_row(
    record: TileRecord, facts: SourceFacts, vector: NDArray[np.float16], extra: dict[str, object]
) -> GeoRow:
    tile = record.tile
    return GeoRow(
        id=record.id,
        source_href=facts.href,
        window=tile.window,
        level=tile.level,
        bbox=tile.bbox,
        footprint=tile.footprint,
        time_us=tile.time_us,
        crs=facts.content.crs,
        gsd_m=facts.content.gsd_m,
        nodata_fraction=tile.nodata_fraction,
        cloud_percent=facts.cloud_percent,
        vector=vector,
        extra=extra,
    )


def _extra(facts: SourceFacts) -> dict[str, object]:
    content = facts.content
    return {
        "content_sha256": content.content_sha256,
        "source_bytes": content.size_bytes,
        "source_width": content.width,
        "source_height": content.height,
        "source_transform": None if content.transform is None else json.dumps(list(content.transform)),
        "source_time_us": content.time_us,
        "source_reading": json.dumps(dict(content.reading), sort_keys=True),
        "source_locations": json.dumps([[at.root, at.path, at.mtime_ns] for at in facts.locations]),
        "source_grids": json.dumps([[g.level, g.overlap, g.windows, g.skipped] for g in facts.grids]),
        "metadata": json.dumps(facts.metadata, sort_keys=True),
    }


def _producer(archive: Archive, row: int) -> dict[str, Any]:
    segment = next(s for s in reversed(archive.segments) if s.base <= row)
    by = segment.producer
    return {"precision": by.precision, "backend": by.backend, "gate_passed": by.gate_passed}
