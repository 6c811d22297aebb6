"""An archive in PostgreSQL as its readers see it: the model, tiles, vectors and sources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.postgres.connection import DEFAULT_SCHEMA, Server, connect, server_errors
from lrsclip_rt.archive.postgres.filters import EVERYTHING, SqlFilter
from lrsclip_rt.archive.postgres.rows import (
    tile_from_row,
    time_us_from_moment,
    vectors_from_wire,
)
from lrsclip_rt.archive.postgres.schema import TILE_COLUMNS, query, read_pushed
from lrsclip_rt.archive.records import ContentRecord, TileRecord
from lrsclip_rt.archive.searching import SAMPLE_ROWS
from lrsclip_rt.bundle import BUILT_IN
from lrsclip_rt.errors import ArchiveError, InputError

__all__ = ["PostgresReader"]

R = TypeVar("R", bound="PostgresReader")


class PostgresReader:
    """Reads an archive that was pushed; ``PostgresArchive`` adds the search.

    Args:
        server: Where it is.
        connection: Open, and closed with the reader.
        approximate: Whether searches use the approximate index.
        bundle: The model's bundle, which texts are embedded by.

    Raises:
        ArchiveError: If there is no archive, or no approximate index where one is asked for.
    """

    def __init__(
        self, server: Server, connection: Any, *, approximate: bool = False, bundle: Path | None = None
    ) -> None:
        self.server = server
        self._bundle = bundle
        self.path = f"postgresql://{server.name}"
        self._connection = connection
        with server_errors(server, "reading"):
            self.pushed = read_pushed(connection, server)
        self.model = self.pushed.model
        self.approximate = approximate
        if approximate and self.pushed.approximate is None:
            raise ArchiveError(
                f"{server} has no approximate index. Make one: lrsclip archive push ARCHIVE "
                f"postgresql://{server.name} --hnsw"
            )

    @classmethod
    def open(
        cls: type[R],
        url: str,
        *,
        schema: str = DEFAULT_SCHEMA,
        approximate: bool = False,
        bundle: Path | None = None,
    ) -> R:
        """Connect to a database that an archive was pushed to.

        Args:
            url: ``postgresql://...``.
            schema: Where it was pushed to.
            approximate: Search by the approximate index, whose recall was measured when it was made.
            bundle: The model's bundle, which texts are embedded by.

        Raises:
            InputError: If it is no such URL.
            ArchiveError: If the database cannot be reached, holds no archive, or no approximate index.
            DependencyError: If psycopg is not installed.
        """
        server = Server.from_url(url, schema)
        connection = connect(server)
        try:
            return cls(server, connection, approximate=approximate, bundle=bundle)
        except BaseException:
            connection.close()
            raise

    def __enter__(self: R) -> R:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._count(EVERYTHING)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {self.model})"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def dim(self) -> int:
        """D, the length of a row."""
        return self.model.dim

    @property
    def model_path(self) -> Path:
        """The bundle for texts: the one given, the one that the archive was indexed with, or the built-in."""
        recorded = self.model.bundle_path
        if self._bundle is not None:
            return self._bundle
        return Path(recorded) if recorded is not None and Path(recorded).is_dir() else BUILT_IN

    @cached_property
    def sample(self) -> NDArray[np.float32]:
        """``(n, D)`` float32, n <= 4,096: the rows of the lowest ids, which are as good as drawn by lot."""
        statement = query("SELECT embedding FROM {s}.tiles ORDER BY id LIMIT %s", self.server)
        with server_errors(self.server, "reading"), self._connection.cursor(binary=True) as cursor:
            cursor.execute(statement, (SAMPLE_ROWS,))
            return vectors_from_wire([row[0] for row in cursor], self.dim)

    def tile(self, identifier: str) -> TileRecord:
        """The tile of an id, or of an unambiguous beginning of one.

        Raises:
            InputError: If there is none, or more than one.
        """
        text = identifier.strip().lower()
        if not text or len(text) > 32 or set(text) - set("0123456789abcdef"):
            raise InputError(f"{identifier!r} is no tile id; expected 32 hex digits, or the first of them")
        bounds = (UUID(hex=text.ljust(32, "0")), UUID(hex=text.ljust(32, "f")))
        found = self._rows(SqlFilter("id BETWEEN %s AND %s", bounds), "0", (), "id", 2)
        tiles = [tile_from_row(row) for row in found]
        if len(tiles) != 1:
            what = "belongs to no tile of this archive" if not tiles else "begins more than one tile id"
            raise InputError(f"{identifier} {what}; ids are the `id` of search results")
        return tiles[0]

    def vectors(self, tiles: Sequence[TileRecord]) -> NDArray[np.float32]:
        """The rows of tiles, ``(N, D)`` float32."""
        ids = [UUID(hex=tile.id) for tile in tiles]
        found = self._rows(SqlFilter("id = ANY(%s)", (ids,)), "0", (), "id", len(ids))
        vectors = vectors_from_wire([row[-1] for row in found], self.dim)
        rows = {row[0].hex: vector for row, vector in zip(found, vectors, strict=True)}
        missing = next((tile.id for tile in tiles if tile.id not in rows), None)
        if missing is not None:
            raise InputError(f"{missing} belongs to no tile of this archive any more")
        return np.array([rows[tile.id] for tile in tiles], np.float32).reshape(len(tiles), self.dim)

    def content(self, source: int) -> ContentRecord:
        """What is recorded about a source, by its number in the database.

        Raises:
            InputError: If there is none of this number.
        """
        columns = "content_sha256, size_bytes, width, height, crs, transform, gsd_m, datetime, reading"
        sha256, size_bytes, width, height, crs, transform, gsd_m, moment, reading = self._source(
            source, columns
        )
        affine = None if transform is None else tuple(float(value) for value in transform)
        time_us = time_us_from_moment(moment)
        return ContentRecord(sha256, size_bytes, width, height, crs, affine, gsd_m, time_us, reading)

    def locations(self, source: int) -> list[Path]:
        """Where a source lay when it was indexed."""
        [found] = self._source(source, "locations")
        return [Path(root) / path for root, path, _ in found]

    def _source(self, source: int, columns: str) -> tuple[Any, ...]:
        statement = query(f"SELECT {columns} FROM {{s}}.sources WHERE source = %s", self.server)
        with server_errors(self.server, "reading"):
            found: tuple[Any, ...] | None = self._connection.execute(statement, (source,)).fetchone()
        if found is None:
            raise InputError(f"the archive has no source number {source}")
        return found

    def _rows(
        self, filtered: SqlFilter, distance: str, values: Sequence[Any], order: str, count: int
    ) -> list[tuple[Any, ...]]:
        """Columns of the tile, its geometry, its distance and its vector."""
        place = "ST_AsBinary(geometry)" if self.pushed.postgis else "geometry"
        statement = query(
            f"SELECT {TILE_COLUMNS}, nodata_fraction, {place}, {distance} AS distance, embedding"
            f" FROM {{s}}.tiles WHERE {filtered.text} ORDER BY {order} LIMIT %s",
            self.server,
        )
        ordered = values if order == distance else ()
        with server_errors(self.server, "reading"), self._connection.cursor(binary=True) as cursor:
            cursor.execute(statement, (*values, *filtered.values, *ordered, count))
            found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    def _hrefs(self, sources: set[int]) -> dict[int, str]:
        asked = query("SELECT source, href FROM {s}.sources WHERE source = ANY(%s)", self.server)
        return dict(self._connection.execute(asked, (sorted(sources),)).fetchall())

    def _count(self, filtered: SqlFilter) -> int:
        if not filtered and self.approximate and self.pushed.rows is not None:
            return self.pushed.rows
        statement = query(f"SELECT count(*) FROM {{s}}.tiles WHERE {filtered.text}", self.server)
        with server_errors(self.server, "reading"):
            return int(self._connection.execute(statement, filtered.values).fetchone()[0])
