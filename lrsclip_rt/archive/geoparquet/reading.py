"""Embedding tables that others wrote, recognised by their columns and read in small batches.

==============  ==================================================================================
kind            columns that tell it (in this order)
==============  ==================================================================================
``lrsclip``     the footer key ``lrsclip``; ``id``, ``embedding``, ``content_sha256``
``major-tom``   ``unique_id``, ``embedding``, ``grid_cell``
``clay-v0``     ``embeddings``, ``source_url``
``planet``      ``embedding``, ``start_datetime``, ``end_datetime``
``earth-index`` ``id``, ``embedding``, ``geometry``
==============  ==================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.geoparquet.columns import import_pyarrow
from lrsclip_rt.archive.geoparquet.writing import FOOTER_KEY
from lrsclip_rt.errors import InputError, LrsclipError

__all__ = ["KINDS", "ParquetTable", "RowBatch"]

KINDS: dict[str, tuple[str, ...]] = {
    "lrsclip": ("id", "embedding", "content_sha256"),
    "major-tom": ("unique_id", "embedding", "grid_cell"),
    "clay-v0": ("embeddings", "source_url"),
    "planet": ("embedding", "start_datetime", "end_datetime"),
    "earth-index": ("id", "embedding", "geometry"),
}

_BATCH_ROWS = 2_048
_MOST_DIM = 65_536
_MOST_FOOTER_BYTES = 64 << 20
_MOST_STRINGS_BYTES = 1 << 30
_LON_LAT = {("OGC", "CRS84"), ("EPSG", "4326")}


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Some rows of a table.

    Attributes:
        first: Number of the first row in the file, for messages.
        vectors: ``(N, D)`` float32, finite.
        columns: The other columns by name, as arrow arrays.
    """

    first: int
    vectors: NDArray[np.float32]
    columns: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.vectors)


class ParquetTable:
    """A parquet file with embeddings; made by ``ParquetTable.open`` and closed by ``close``.

    Attributes:
        path: The file.
        kind: One of ``KINDS``.
        rows: As the footer counts them.
        dim: D.
        facts: Values of our own footer key; empty in a file of somebody else.
        lossy: Whether the vectors were quantised.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._pa = import_pyarrow()
        self._file = file
        schema = file.schema_arrow
        footer = file.metadata.metadata or {}
        self.facts = self._footer_facts(footer)
        self.kind = _kind_from_columns(path, schema.names, bool(self.facts))
        self.rows = int(file.metadata.num_rows)
        self.columns = tuple(schema.names)
        self._vector_name = "embeddings" if self.kind == "clay-v0" else "embedding"
        self.lossy = "embedding_scale" in schema.names and self.kind == "lrsclip"
        self._check_vector_type(schema.field(self._vector_name).type)
        self._check_crs(footer)
        self.dim = self._dim(schema.field(self._vector_name).type)

    @classmethod
    def open(cls, path: str | Path) -> ParquetTable:
        """Open a file and recognise it.

        Raises:
            InputError: If it is no parquet file, or none of a known kind.
            DependencyError: If pyarrow is not installed.
        """
        target = Path(path)
        pyarrow = import_pyarrow()
        with _refusing(target):
            file = pyarrow.parquet.ParquetFile(
                target,
                pre_buffer=False,
                buffer_size=1 << 20,
                thrift_string_size_limit=_MOST_FOOTER_BYTES,
                thrift_container_size_limit=_MOST_FOOTER_BYTES // 8,
            )
            try:
                return cls(target, file)
            except BaseException:
                file.close()
                raise

    def __enter__(self) -> ParquetTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def batches(self) -> Iterator[RowBatch]:
        """Every row once, in the file's order.

        Raises:
            InputError: If the file is cut off, or a vector is missing, of another length or not finite.
        """
        first = 0
        with _refusing(self.path):
            for batch in self._file.iter_batches(batch_size=_BATCH_ROWS):
                if batch.nbytes > _MOST_STRINGS_BYTES:
                    raise InputError(f"{self.path}: {batch.num_rows} rows from row {first} on are too large")
                columns = {name: batch.column(index) for index, name in enumerate(batch.schema.names)}
                vectors = self._vectors(columns.pop(self._vector_name), first)
                if self.lossy:
                    vectors *= self._scales(columns["embedding_scale"], first)[:, None]
                yield RowBatch(first, vectors, columns)
                first += batch.num_rows
            if first != self.rows:
                raise InputError(f"{self.path} holds {first} rows, its footer counts {self.rows}")

    def _vectors(self, array: Any, first: int) -> NDArray[np.float32]:
        if array.null_count:
            raise InputError(f"{self.path}: a vector is missing at or behind row {first}")
        if not hasattr(array.type, "list_size") or array.type.list_size < 0:
            lengths = array.value_lengths().to_numpy(zero_copy_only=False)
            if len(lengths) and (lengths != self.dim).any():
                wrong = int(np.argmax(lengths != self.dim))
                raise InputError(
                    f"{self.path}: row {first + wrong} has {lengths[wrong]} numbers, expected {self.dim}"
                )
        flat = array.flatten()
        if flat.null_count:
            raise InputError(f"{self.path}: a vector at or behind row {first} has missing numbers")
        with np.errstate(over="ignore"):
            values = np.asarray(flat.to_numpy(zero_copy_only=False)).astype(np.float32)
        vectors = values.reshape(len(array), self.dim)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise InputError(f"{self.path}: the vector of row {row} is not finite")
        return vectors

    def _scales(self, array: Any, first: int) -> NDArray[np.float32]:
        scales = np.asarray(array.to_numpy(zero_copy_only=False), np.float32)
        if not np.isfinite(scales).all():
            raise InputError(f"{self.path}: an embedding_scale at or behind row {first} is missing")
        return scales

    def _footer_facts(self, metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
        text = metadata.get(FOOTER_KEY.encode())
        if text is None:
            return {}
        facts = json.loads(text)
        if not isinstance(facts, dict) or facts.get("format") != 1:
            found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
            raise InputError(
                f"{self.path} has format {found} of the footer key {FOOTER_KEY}, this lrsclip-rt reads 1; "
                "search results are no archive, and a newer format needs a newer lrsclip-rt"
            )
        return facts

    def _check_vector_type(self, found: Any) -> None:
        types = self._pa.types
        nested = types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)
        numeric = nested and (types.is_floating(found.value_type) or types.is_int8(found.value_type))
        if not numeric or (types.is_int8(found.value_type) and not self.lossy):
            raise InputError(
                f"{self.path}: the column {self._vector_name} is {found}, expected lists of "
                "floating-point numbers"
            )

    def _check_crs(self, metadata: Mapping[bytes, bytes]) -> None:
        text = metadata.get(b"geo")
        if text is None:
            return
        geo = json.loads(text)
        column = geo.get("columns", {}).get("geometry", {})
        crs = column.get("crs")
        if crs is not None and (
            crs.get("id", {}).get("authority"),
            str(crs.get("id", {}).get("code")),
        ) not in (_LON_LAT):
            raise InputError(
                f"{self.path} is in {crs.get('name')}; reproject it to EPSG:4326 (longitude, latitude) first"
            )
        if column.get("encoding", "WKB") != "WKB":
            raise InputError(f"{self.path} has geometries in {column['encoding']}, expected WKB")

    def _dim(self, found: Any) -> int:
        dim = getattr(found, "list_size", -1)
        if dim < 0:
            dim = 0
            for batch in self._file.iter_batches(batch_size=1, columns=[self._vector_name]):
                lengths = batch.column(0).value_lengths().to_pylist()
                dim = lengths[0] or 0
                break
        declared = self.facts.get("model", {}).get("dim", dim)
        if (self.rows and not 1 <= dim <= _MOST_DIM) or (self.facts and declared != dim):
            raise InputError(f"{self.path} has vectors of {dim} numbers, expected {declared or 'at least 1'}")
        return int(dim)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Whatever a file that nobody vouches for makes pyarrow or our parsing raise, as one named error."""
    pyarrow = import_pyarrow()
    try:
        yield
    except LrsclipError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (
        pyarrow.ArrowException,
        OSError,
        MemoryError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
    ) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} cannot be read as a parquet file of embeddings: {reason}") from error


def _kind_from_columns(path: Path, names: list[str], ours: bool) -> str:
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise InputError(f"{path} has the column {sorted(doubled)[0]} twice")
    for kind, needed in KINDS.items():
        if set(needed) <= set(names) and (kind == "lrsclip") == ours:
            return kind
    if ours:
        missing = sorted(set(KINDS["lrsclip"]) - set(names))
        raise InputError(f"{path} lacks the columns {', '.join(missing)} of an exported archive")
    known = "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in KINDS.items() if kind != "lrsclip")
    raise InputError(
        f"{path} has the columns {', '.join(names[:20]) or 'none'}, by which no kind of embeddings is known. "
        f"Expected an export of an archive, or {known}"
    )
