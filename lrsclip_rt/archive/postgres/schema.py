"""The tables of an archive in PostgreSQL: made by ``push``, read by ``search``.

``info`` holds facts by key, ``sources`` and ``tiles`` what the archive's own tables of these names hold. A
tile's id is its 32 hex digits as a ``uuid``; ``bbox_xmin > bbox_xmax`` across the antimeridian.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrsclip_rt.archive.postgres.connection import Server
from lrsclip_rt.archive.records import ModelRecord
from lrsclip_rt.errors import ArchiveError, ArchiveModelError

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["FORMAT", "TILE_COLUMNS", "PushedInfo", "create_schema", "query", "read_pushed", "set_fact"]

FORMAT = 1

TILE_COLUMNS = (
    "id, source, level, col_off, row_off, width, height, bbox_xmin, bbox_ymin, bbox_xmax, bbox_ymax, datetime"
)

_LONGEST_INLINE = 3_500
"""Up to this D a row with its vector fits a page of 8 KiB, so that it needs no second place."""

_TABLES = """
CREATE TABLE IF NOT EXISTS {s}.info (key text PRIMARY KEY, value jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS {s}.sources (
    source bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    content_sha256 text NOT NULL UNIQUE,
    size_bytes bigint NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    crs text,
    transform jsonb,
    gsd_m double precision,
    datetime timestamptz,
    reading jsonb NOT NULL,
    href text NOT NULL,
    locations jsonb NOT NULL,
    metadata jsonb NOT NULL
);
CREATE TABLE IF NOT EXISTS {s}.tiles (
    id uuid PRIMARY KEY,
    source bigint NOT NULL REFERENCES {s}.sources,
    level integer NOT NULL,
    col_off integer NOT NULL,
    row_off integer NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    bbox_xmin double precision,
    bbox_ymin double precision,
    bbox_xmax double precision,
    bbox_ymax double precision,
    geometry {geometry},
    datetime timestamptz,
    nodata_fraction real,
    embedding halfvec({dim}) NOT NULL
);
CREATE INDEX IF NOT EXISTS tiles_source ON {s}.tiles (source);
CREATE INDEX IF NOT EXISTS tiles_datetime ON {s}.tiles (datetime);
CREATE INDEX IF NOT EXISTS sources_metadata ON {s}.sources USING gin (metadata jsonb_path_ops)
"""


@dataclass(frozen=True, slots=True)
class PushedInfo:
    """The facts of a pushed archive.

    Attributes:
        model: Whose vectors they are.
        rows: Rows after the last finished push; None while the first is under way.
        approximate: What was measured of the approximate index; None without one.
        postgis: Whether ``geometry`` is PostGIS's type rather than WKB bytes.
    """

    model: ModelRecord
    rows: int | None
    approximate: dict[str, Any] | None
    postgis: bool


def query(text: str, server: Server, **parts: Any) -> Composed:
    """A statement with ``{s}`` for the schema's quoted name; values are parameters and never go this way."""
    from psycopg import sql

    # psycopg's type asks for a literal; every text is made of constants of this package.
    constant: Any = text
    return sql.SQL(constant).format(s=sql.Identifier(server.schema), **parts)


def create_schema(connection: Connection[Any], server: Server, model: ModelRecord) -> PushedInfo:
    """Make the tables where there are none, in one transaction.

    Raises:
        ArchiveError: If pgvector is missing or too old, or the schema holds something else or newer.
        ArchiveModelError: If it holds vectors of another model.
    """
    from psycopg import sql

    _need_vector(connection, server)
    held = _read(connection, server)
    if held is not None:
        if (held.model.identity, held.model.dim) != (model.identity, model.dim):
            raise ArchiveModelError(
                f"{server} holds vectors of {held.model}, not of {model}. Push into another --schema"
            )
        return held
    postgis = _has_extension(connection, "postgis")
    geometry = sql.SQL("geometry(Geometry, 4326)" if postgis else "bytea")
    with connection.transaction():
        connection.execute(query("CREATE SCHEMA IF NOT EXISTS {s}", server))
        for statement in _TABLES.split(";"):
            made = query(statement, server, geometry=geometry, dim=sql.Literal(model.dim))
            connection.execute(made)
        if model.dim <= _LONGEST_INLINE:
            connection.execute(
                query("ALTER TABLE {s}.tiles ALTER COLUMN embedding SET STORAGE PLAIN", server)
            )
        facts = {"format": FORMAT, "identity": model.identity, "name": model.name, "dim": model.dim}
        set_fact(connection, server, "model", {**facts, "bundle_path": model.bundle_path})
        set_fact(connection, server, "postgis", postgis)
    return PushedInfo(model, None, None, postgis)


def read_pushed(connection: Connection[Any], server: Server) -> PushedInfo:
    """The facts of an archive that was pushed.

    Raises:
        ArchiveError: If there is none, or a newer one.
    """
    held = _read(connection, server)
    if held is None:
        raise ArchiveError(
            f"{server} holds no archive. Push one: lrsclip archive push ARCHIVE postgresql://{server.name}"
        )
    return held


def set_fact(connection: Connection[Any], server: Server, key: str, value: object) -> None:
    """Record a fact; None forgets it."""
    if value is None:
        connection.execute(query("DELETE FROM {s}.info WHERE key = %s", server), (key,))
        return
    insert = (
        "INSERT INTO {s}.info (key, value) VALUES (%s, %s::jsonb)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    connection.execute(query(insert, server), (key, json.dumps(value)))


def _read(connection: Connection[Any], server: Server) -> PushedInfo | None:
    tables = (
        "SELECT count(*) FROM pg_tables WHERE schemaname = %s AND tablename IN ('info', 'sources', 'tiles')"
    )
    (count,) = connection.execute(tables, (server.schema,)).fetchone() or (0,)
    if count == 0:
        return None
    if count != 3:
        raise ArchiveError(f"{server} holds tables of something else. Push into another --schema")
    facts = dict(connection.execute(query("SELECT key, value FROM {s}.info", server)).fetchall())
    try:
        record = facts["model"]
        if record["format"] > FORMAT:
            raise ArchiveError(
                f"{server} has format {record['format']}, this lrsclip-rt reads up to {FORMAT}. "
                "Upgrade it: pip install -U lrsclip-rt"
            )
        model = ModelRecord(record["identity"], record["name"], int(record["dim"]), record["bundle_path"])
        return PushedInfo(model, facts.get("rows"), facts.get("approximate"), bool(facts.get("postgis")))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(
            f"{server} holds tables of something else ({error}). Push into another --schema"
        ) from error


def _need_vector(connection: Connection[Any], server: Server) -> None:
    from psycopg import Error

    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except Error as error:
        raise ArchiveError(
            f"{server.name} has no pgvector, or this user may not switch it on. Ask its administrator for "
            "pgvector 0.8 or newer and CREATE EXTENSION vector"
        ) from error
    found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    version = str(found[0]) if found else "none"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (0, 8):
        raise ArchiveError(
            f"{server.name} has pgvector {version}; half-precision vectors and iterative scans need 0.8 or "
            "newer. Upgrade it: ALTER EXTENSION vector UPDATE"
        )


def _has_extension(connection: Connection[Any], name: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_extension WHERE extname = %s", (name,)).fetchone() is not None
