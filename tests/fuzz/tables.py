"""GeoParquet: our own export and the four kinds of tables of others."""

from __future__ import annotations

import io
import json
from datetime import date, datetime, timezone
from pathlib import Path
from random import Random
from typing import Any

import archive_makers as makers
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.archives import small_archive
from fuzz.harness import Harness
from fuzz.mutation import HOSTILE_TEXTS, mutated_bytes, mutated_json
from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.footprints import wkb_from_rings
from lrsclip_rt.archive.geoparquet.exporting import export_archive
from lrsclip_rt.archive.geoparquet.importing import _model
from lrsclip_rt.archive.geoparquet.reading import ParquetTable
from lrsclip_rt.archive.geoparquet.rows import imported_rows

__all__ = ["TablesHarness"]

_WKB = wkb_from_rings((makers.square((10.0, 50.0, 10.1, 50.1)),))
_WHEN = datetime(2024, 5, 31, 10, 20, tzinfo=timezone.utc)
_VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    2**31 - 1,
    2**62,
    float("nan"),
    float("inf"),
    1e308,
    True,
    b"",
    b"\x01\x03",
    [],
    [1, 2],
    {},
)
_GEO = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
_TABLES: tuple[dict[str, Any], ...] = (
    {
        "unique_id": ["u0", "u1"],
        "timestamp": ["20240531T102000", None],
        "product_id": ["S2A_1", "S2A_1"],
        "grid_cell": ["922D_249L", "1U_2R"],
        "centre_lat": [50.05, -10.0],
        "centre_lon": [10.05, 20.0],
        "utm_crs": ["EPSG:32632"] * 2,
        "pixel_bbox": [[0, 0, 384, 384], [342, 0, 726, 384]],
    },
    {"source_url": ["s3://b/0.tif", "s3://b/1.tif"], "date": [date(2020, 1, 1), date(2020, 1, 2)]},
    {"id": ["a", "b"], "start_datetime": [_WHEN] * 2, "end_datetime": [_WHEN] * 2},
    {"id": [11, 12]},
)


class TablesHarness(Harness):
    """Reads every row of a file as an import does before it writes."""

    name = "GeoParquet"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "t.parquet"
        with Archive.open(small_archive(folder / "archive", 6)) as archive:
            for vectors in ("float16", "int8"):
                export_archive(archive, self._path, vectors=vectors, overwrite=True)
                self.seeds.append(self._path.read_bytes())
        for columns in _TABLES:
            name = "embeddings" if "source_url" in columns else "embedding"
            rows = [list(map(float, row)) for row in makers.unit_rows(2)]
            table = pa.table(
                {**columns, name: pa.array(rows, pa.list_(pa.float32())), "geometry": [_WKB, None]}
            )
            self.seeds.append(_written(table.replace_schema_metadata({"geo": json.dumps(_GEO)})))

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """Half by pyarrow, half by bytes."""
        if rng.randrange(2):
            return mutated_bytes(data, rng)
        try:
            table = pq.read_table(io.BytesIO(data), thrift_string_size_limit=1 << 20)
            return _written(_other_table(table, rng))
        except Exception:  # a file that was damaged before, or values that pyarrow does not put together
            return mutated_bytes(data, rng)

    def feed(self, data: bytes) -> None:
        """Recognise, find the model, and look at every row."""
        self._path.write_bytes(data)
        with ParquetTable.open(self._path) as table:
            _model(table, None, None, None)
            for batch in table.batches():
                for row in imported_rows(table, batch):
                    assert row.vector.shape == (table.dim,)


def _written(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _other_table(table: pa.Table, rng: Random) -> pa.Table:
    place = rng.randrange(table.num_columns)
    name, column = table.schema.names[place], table.column(place)
    kind = rng.randrange(7)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        return table.rename_columns(
            [n if n != name else rng.choice(HOSTILE_TEXTS[:-1]) for n in table.schema.names]
        )
    if kind == 2:
        return table.append_column(name, column)
    if kind == 3:
        metadata = dict(table.schema.metadata or {})
        if metadata:
            key = rng.choice(list(metadata))
            metadata[key] = mutated_json(metadata[key], rng)
        return table.replace_schema_metadata(metadata)
    values = column.to_pylist()
    value = rng.choice((*_VALUES, rng.choice(HOSTILE_TEXTS)))
    row = rng.randrange(len(values)) if values else 0
    if kind == 4 and values and isinstance(values[row], str) and values[row][:1] in "[{":
        values[row] = mutated_json(values[row].encode(), rng).decode("utf-8", "replace")
    elif kind == 5 and values and isinstance(values[row], bytes):
        values[row] = mutated_bytes(values[row], rng)
    elif values:
        values[row] = value
    fresh = pa.array(values, column.type) if rng.randrange(3) else pa.array([value] * len(values))
    return table.set_column(place, name, fresh)
