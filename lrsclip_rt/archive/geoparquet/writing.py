"""GeoParquet 1.1: one row a tile, its footprint, its vector, and where it was cut from.

Rows are written as they come, a row group at a time, so that memory is bounded by a row group and not by the
archive. The file appears under its name when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lrsclip_rt.archive.footprints import Bbox
from lrsclip_rt.archive.geoparquet.columns import (
    ColumnType,
    GeoRow,
    Layout,
    Totals,
    VectorType,
    import_pyarrow,
)
from lrsclip_rt.errors import InputError, OutputExistsError

__all__ = ["FOOTER_KEY", "ROW_GROUP_BYTES", "GeoRow", "WrittenFile", "write_geoparquet"]

FOOTER_KEY = "lrsclip"
"""Our own key in the footer, beside ``geo``."""

ROW_GROUP_BYTES = 128 << 20
"""Size of a row group before compression [bytes]."""

_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What was written.

    Attributes:
        path: The file.
        rows: All rows.
        rows_without_place: Rows whose geometry is null.
        row_groups: Number of row groups.
        bytes: Size of the file [bytes].
        extent: Coordinate range west, south, east, north [deg] of all geometries; None without any.
        first_time_us: Earliest time; None without any.
        last_time_us: Latest time.
    """

    path: Path
    rows: int
    rows_without_place: int
    row_groups: int
    bytes: int
    extent: Bbox | None
    first_time_us: int | None
    last_time_us: int | None


def write_geoparquet(
    path: str | Path,
    rows: Iterable[GeoRow],
    *,
    model_id: str,
    dim: int | None = None,
    vectors: VectorType | None = "float16",
    extra: Mapping[str, ColumnType] | None = None,
    facts: Mapping[str, Any] | None = None,
    row_group_bytes: int = ROW_GROUP_BYTES,
    overwrite: bool = False,
) -> WrittenFile:
    """Write rows in the order given.

    Args:
        path: The file to make.
        rows: May be a generator; each row is looked at once.
        model_id: Identity of the model whose vectors these are, also where no vectors are written.
        dim: D; needed with ``vectors``.
        vectors: Type of the column ``embedding``; int8 adds ``embedding_scale``; None leaves both out.
        extra: Names and types of further columns, for example ``{"score": "float64"}``.
        facts: JSON values for the footer key ``lrsclip``.
        row_group_bytes: Size of a row group before compression [bytes].
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: If a vector is missing or of another length, or the file cannot be written.
        OutputExistsError: If the file exists.
        DependencyError: If pyarrow is not installed.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists. Choose another name, or pass --overwrite")
    if vectors is not None and (dim is None or dim < 1):
        raise InputError(f"writing vectors needs their length D, got {dim}")
    pyarrow = import_pyarrow()
    layout = Layout(pyarrow, model_id, dim or 0, vectors, dict(extra or {}))
    part = target.with_name(f".{target.name}.part")
    try:
        try:
            totals = _write(part, layout, rows, dict(facts or {}), row_group_bytes)
            size = part.stat().st_size
            part.replace(target)
        except (OSError, pyarrow.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{target} cannot be written: {reason}. Choose another place") from error
    finally:
        part.unlink(missing_ok=True)
    return WrittenFile(
        target,
        totals.rows,
        totals.without_place,
        totals.row_groups,
        size,
        totals.extent,
        totals.first_time_us,
        totals.last_time_us,
    )


def _write(
    path: Path, layout: Layout, rows: Iterable[GeoRow], facts: dict[str, Any], row_group_bytes: int
) -> Totals:
    from pyarrow import Table, parquet

    totals = Totals()
    with parquet.ParquetWriter(
        path,
        layout.schema,
        compression="zstd",
        use_dictionary=layout.repetitive,
        write_statistics=layout.measured,
        store_schema=True,
    ) as writer:
        waiting: list[Any] = []
        for part in _parts(rows, _ROWS_AT_ONCE):
            waiting.append(layout.batch(part, totals))
            if sum(batch.nbytes for batch in waiting) >= row_group_bytes:
                _write_group(writer, Table.from_batches(waiting), totals)
                waiting = []
        if waiting or not totals.rows:
            _write_group(writer, Table.from_batches(waiting, layout.schema), totals)
        facts = {**facts, "rows": totals.rows, "vectors": layout.vectors}
        footer = {"geo": json.dumps(_geo_metadata(totals)), FOOTER_KEY: json.dumps(facts, sort_keys=True)}
        writer.add_key_value_metadata(footer)
    return totals


def _write_group(writer: Any, table: Any, totals: Totals) -> None:
    writer.write_table(table, row_group_size=max(1, table.num_rows))
    totals.row_groups += 1


def _geo_metadata(totals: Totals) -> dict[str, Any]:
    """Without a ``crs`` the coordinates are OGC:CRS84: longitude, latitude on WGS84."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(totals.kinds),
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if totals.extent is not None:
        column["bbox"] = list(totals.extent)
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _parts(rows: Iterable[GeoRow], count: int) -> Iterator[list[GeoRow]]:
    iterator = iter(rows)
    while part := list(islice(iterator, count)):
        yield part
