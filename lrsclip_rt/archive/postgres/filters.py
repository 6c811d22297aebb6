"""A ``Where`` as SQL: constants with places for parameters, and the parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from lrsclip_rt.archive.footprints import boxes_of
from lrsclip_rt.archive.postgres.connection import Server
from lrsclip_rt.archive.postgres.schema import query
from lrsclip_rt.archive.source_paths import SourcePaths
from lrsclip_rt.archive.where import Where
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["EVERYTHING", "SqlFilter", "filter_from_where"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_TOUCHES = (
    "(CASE WHEN bbox_xmin <= bbox_xmax THEN bbox_xmax >= %s AND bbox_xmin <= %s"
    " ELSE bbox_xmax >= %s OR bbox_xmin <= %s END AND bbox_ymax >= %s AND bbox_ymin <= %s)"
)


@dataclass(frozen=True, slots=True)
class SqlFilter:
    """What follows ``WHERE``, and the values of its places; boxes decide here, footprints behind it."""

    text: str
    values: tuple[Any, ...]

    def __bool__(self) -> bool:
        return self.text != "true"


EVERYTHING = SqlFilter("true", ())


def filter_from_where(connection: Connection[Any], server: Server, where: Where) -> SqlFilter:
    """Every condition of ``where`` on columns of ``tiles``, as a folder's archive would apply it.

    Patterns and comparisons of metadata are decided here, source by source, by the code that a folder's
    archive uses, so that both answer alike; what goes to the server is the list of sources that pass.

    Raises:
        InputError: If no source has metadata of a name asked for.
    """
    parts: list[str] = []
    values: list[Any] = []
    if where.box is not None:
        boxes = [_touching(box) for box in boxes_of(where.box)]
        parts.append(" OR ".join([_TOUCHES] * len(boxes)))
        values += [value for box in boxes for value in box]
    if where.aoi is not None:
        parts.append(_TOUCHES)
        values += _touching(where.aoi.bounds)
    start, end = where.interval
    for sign, moment in ((">=", start), ("<", end)):
        if moment is not None:
            parts.append(f"datetime {sign} %s")
            values.append(_EPOCH + timedelta(microseconds=moment))
    for sources in _sources(connection, server, where):
        parts.append("source = ANY(%s)")
        values.append(sorted(sources))
    text = " AND ".join(f"({part})" for part in parts) or "true"
    return SqlFilter(text, tuple(values))


def _touching(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    west, south, east, north = box
    return west, east, west, east, south, north


def _sources(connection: Connection[Any], server: Server, where: Where) -> Iterable[set[int]]:
    if where.sources is not None:
        yield _by_path(connection, server, where.sources)
    if where.metadata:
        _check_keys(connection, server, where.metadata)
        asked = query("SELECT source FROM {s}.sources WHERE metadata @> %s::jsonb", server)
        yield {row[0] for row in connection.execute(asked, (json.dumps(dict(where.metadata)),))}
    conditions = where.parsed_conditions
    if conditions:
        _check_keys(connection, server, [condition.key for condition in conditions])
    for condition in conditions:
        asked = query("SELECT source, metadata->>%s FROM {s}.sources WHERE metadata ? %s", server)
        found = connection.execute(asked, (condition.key, condition.key))
        yield {source for source, value in found if condition.is_met(value)}


def _by_path(connection: Connection[Any], server: Server, patterns: Iterable[str]) -> set[int]:
    wanted = SourcePaths(patterns)
    listed = connection.execute(query("SELECT source, locations FROM {s}.sources", server))
    return {
        int(source)
        for source, locations in listed
        if any(wanted.match(root, path) for root, path, _ in locations)
    }


def _check_keys(connection: Connection[Any], server: Server, keys: Iterable[str]) -> None:
    for key in keys:
        asked = query("SELECT EXISTS (SELECT FROM {s}.sources WHERE metadata ? %s)", server)
        if connection.execute(asked, (key,)).fetchone() == (False,):
            listed = query("SELECT DISTINCT jsonb_object_keys(metadata) FROM {s}.sources ORDER BY 1", server)
            known = ", ".join(row[0] for row in connection.execute(listed)) or "none"
            raise InputError(f"no source of this archive has metadata {key!r}; known keys: {known}")
