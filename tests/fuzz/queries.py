"""What people type: conditions, boxes, times, areas, texts, ids, paths and addresses."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

import click
import numpy as np

from fuzz.archives import small_archive
from fuzz.harness import Harness
from fuzz.mutation import mutated_bytes, mutated_json, mutated_text
from lrsclip_rt.archive import Archive, Where
from lrsclip_rt.archive.areas.files import area_from_file
from lrsclip_rt.archive.conditions import Condition
from lrsclip_rt.archive.footprints import wkb_from_rings
from lrsclip_rt.archive.postgres.connection import Server, is_postgres_url
from lrsclip_rt.archive.sentences import split_sentences
from lrsclip_rt.archive.times import interval_us, text_from_time_us
from lrsclip_rt.cli.search import _box, command
from lrsclip_rt.errors import InputError
from lrsclip_rt.tokenizer import Tokenizer

__all__ = ["QueriesHarness"]

_SQUARE = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0), (0.0, 0.0))
_HOLE = ((1.0, 1.0), (1.0, 3.0), (3.0, 3.0), (3.0, 1.0), (1.0, 1.0))
_POLYGON = {"type": "Polygon", "coordinates": [_SQUARE, _HOLE]}
_MULTI = {"type": "MultiPolygon", "coordinates": [[_SQUARE]]}
_FEATURES = {
    "type": "FeatureCollection",
    "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}},
    "features": [{"type": "Feature", "properties": {}, "geometry": _MULTI}],
}
_TEXTS: dict[str, tuple[str, ...]] = {
    "where": ("eo:cloud_cover<=20", "platform!=landsat-8", "a=b", "date>2024-05-31"),
    "bbox": ("-5,40,10,50", "170,-20,-170,-10"),
    "time": ("2024-05-31", "2024-05-31T10:20:00Z", "1970-01-01T02:00:00.5+02:00"),
    "text": (
        "a harbour with many ships. is there a pier?",
        "Café &amp; Hafen — 港口",
        "white storage tanks " * 60,
    ),
    "tile": ("0123abcd",),
    "source": ("*.tif", "scenes/[a-z]*.tif", "/data/scenes/../scenes/000.tif"),
    "url": ("postgresql://user:secret@host:5432/database?sslmode=require",),
}


class QueriesHarness(Harness):
    """Takes an input as one of them by its first byte."""

    name = "query strings"
    allowed: ClassVar[tuple[type[Exception], ...]] = (click.UsageError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._archive = Archive.open(small_archive(folder / "archive", 12))
        self._tokenizer = Tokenizer()
        self._query = np.ones((1, self._archive.dim), np.float32)
        self._path = folder / "area"
        self._kinds: dict[str, Callable[[str], object]] = {
            "where": self._where,
            "bbox": self._bbox,
            "time": self._time,
            "text": self._text,
            "tile": lambda text: self._archive.tile(text),
            "source": lambda text: self._searched(Where(sources=[text])),
            "url": self._url,
            "options": self._options,
        }
        self._area_kinds = len(self._kinds)
        for number, kind in enumerate(self._kinds):
            texts = _TEXTS.get(kind, ("--where\na=b\n--bbox\n-5,40,10,50\n-k\n3",))
            self.seeds += [bytes([number]) + text.encode() for text in texts]
        documents = (_POLYGON, _FEATURES, {"type": "Feature", "geometry": _MULTI})
        self.seeds += [bytes([self._area_kinds]) + json.dumps(d).encode() for d in documents]
        self.seeds.append(bytes([self._area_kinds]) + _geopackage(folder / "made.gpkg"))

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """Text as text, GeoJSON as JSON, a GeoPackage by bytes."""
        kind, body = data[:1] or b"\0", data[1:]
        if body.startswith(b"SQLite"):
            return kind + mutated_bytes(body, rng)
        if kind[0] % (self._area_kinds + 1) == self._area_kinds:
            return kind + mutated_json(body, rng)
        text = mutated_text(body.decode("utf-8", "surrogateescape"), rng)
        return kind + text.encode("utf-8", "surrogatepass")

    def feed(self, data: bytes) -> None:
        """Parse, and use what comes out."""
        kind, body = (data[0] if data else 0) % (self._area_kinds + 1), data[1:]
        if kind == self._area_kinds:
            self._area(body)
            return
        list(self._kinds.values())[kind](body.decode("utf-8", "surrogateescape"))

    def _searched(self, where: Where) -> None:
        self._archive.search(self._query, where=where)

    def _where(self, text: str) -> None:
        condition = Condition.from_text(text)
        for value in ("", "20", "landsat-8", "2024-01-01", text):
            assert condition.is_met(value) in (True, False)
        self._searched(Where(conditions=[condition]))

    def _bbox(self, text: str) -> None:
        parameter = command.params[0]
        box = _box(click.Context(command), parameter, text)
        assert box is not None
        self._searched(Where(bbox=box))

    def _time(self, text: str) -> None:
        start, end = interval_us(text)
        assert start <= end
        text_from_time_us(start)
        self._searched(Where(start=text))
        self._searched(Where(end=text))

    def _text(self, text: str) -> None:
        tokens = self._tokenizer.encode(text)
        assert tokens.shape == (1, 248)
        self._tokenizer.decode(tokens[0])
        split_sentences(text)

    def _options(self, text: str) -> None:
        """What a shell hands over, where no zero byte can be."""
        command.make_context("search", [*text.replace("\0", "").split("\n"), "archive", "text"])

    def _url(self, text: str) -> None:
        if is_postgres_url(text):
            refused: InputError | None = None
            try:
                shown = repr(Server.from_url(text))
            except InputError as error:
                refused, shown = error, str(error)
            assert "secret" not in shown
            if refused is not None:
                raise refused

    def _area(self, content: bytes) -> None:
        self._path.write_bytes(content)
        self._searched(Where(aoi=area_from_file(self._path)))


def _geopackage(path: Path) -> bytes:
    """The least that is one: a layer with a polygon."""
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id, definition);"
        "INSERT INTO gpkg_spatial_ref_sys VALUES (4326, 'EPSG', 4326, '');"
        "CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id);"
        "INSERT INTO gpkg_geometry_columns VALUES ('area', 'geom', 4326);"
        "CREATE TABLE area (geom BLOB);"
    )
    blob = b"GP\0\1" + struct.pack("<i", 4326) + wkb_from_rings((_SQUARE,))
    database.execute("INSERT INTO area VALUES (?)", (blob,))
    database.commit()
    database.close()
    return path.read_bytes()
