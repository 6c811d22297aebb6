"""Queries with outlines in the SeLo form, and the exact truth of a mosaic scene.

SeLo form: ``[{"caption": "...", "jpg_name": "0.jpg", "points": [[[col, row], ...], ...]}, ...]``, one
outline a list of vertices [px].
Mosaic truth: ``{"cells": [{"window": [col_off, row_off, width, height], "class": "Port"}, ...]}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window
from lrsclip_rt.tokenizer import clean_text

__all__ = [
    "MosaicTruth",
    "Outline",
    "SeloAnnotations",
    "SeloQuery",
    "find_annotations",
    "mosaic_from_file",
    "selo_annotations_from_file",
]

Outline = tuple[tuple[float, float], ...]
"""Vertices (col, row) [px] of one polygon."""

KEYS = ("caption", "jpg_name", "points")


@dataclass(frozen=True, slots=True)
class SeloQuery:
    """One text and the places of one scene that it means.

    Attributes:
        number: Position in the file, from 0.
        scene: File name of the scene, relative to the folder.
        caption: What is looked for.
        outlines: Where it is.
    """

    number: int
    scene: str
    caption: str
    outlines: tuple[Outline, ...]

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"query {self.number} ({self.scene})"


@dataclass(frozen=True, slots=True)
class SeloAnnotations:
    """One annotation file.

    Attributes:
        path: The file.
        queries: Those that can be asked, in file order.
        failures: (query, reason) of the others.
    """

    path: Path
    queries: tuple[SeloQuery, ...]
    failures: tuple[tuple[str, str], ...]

    def by_scene(self) -> dict[str, tuple[SeloQuery, ...]]:
        """The queries of each scene, scenes in the order of their first query."""
        groups: dict[str, list[SeloQuery]] = {}
        for query in self.queries:
            groups.setdefault(query.scene, []).append(query)
        return {scene: tuple(queries) for scene, queries in groups.items()}


@dataclass(frozen=True, slots=True)
class MosaicTruth:
    """A scene laid out of images whose classes are known.

    Attributes:
        path: The file.
        windows: The cells [px].
        classes: Class of each cell.
    """

    path: Path
    windows: tuple[Window, ...]
    classes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct classes, sorted."""
        return tuple(sorted(set(self.classes)))


def find_annotations(folder: str | Path) -> Path:
    """The one ``*.json`` of a folder that has the SeLo form.

    Raises:
        InputError: If there is none, or more than one.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder, expected scenes and an annotation file")
    found = [path for path in sorted(root.glob("*.json")) if _has_selo_form(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{root} has {len(found)} annotation files: {names}. Choose one with --annotations")
    others = ", ".join(path.name for path in sorted(root.glob("*.json"))) or "no *.json"
    raise InputError(
        f"{root} has no annotation file (found {others}), expected a list of objects with "
        f"{', '.join(KEYS)}; name one elsewhere with --annotations"
    )


def selo_annotations_from_file(path: str | Path) -> SeloAnnotations:
    """Read an annotation file; queries that cannot be asked are listed, the rest stays.

    Raises:
        InputError: If the file cannot be read or has another form.
    """
    path = Path(path)
    value = _json(path)
    if not _is_selo(value):
        raise InputError(
            f"{path} is {_form(value)}, expected a list of objects with {', '.join(KEYS)} (the SeLo form)"
        )
    queries, failures = [], []
    for number, record in enumerate(value):
        try:
            queries.append(_query(number, record))
        except InputError as error:
            failures.append((f"query {number}", str(error)))
    return SeloAnnotations(path, tuple(queries), tuple(failures))


def mosaic_from_file(path: str | Path) -> MosaicTruth:
    """Read the truth of a mosaic scene.

    Raises:
        InputError: If the file cannot be read or has another form, or has fewer than two classes.
    """
    path = Path(path)
    value = _json(path)
    cells = value.get("cells") if isinstance(value, dict) else None
    if not isinstance(cells, list) or not cells:
        raise InputError(f"{path} is {_form(value)}, expected an object with cells (the truth of a mosaic)")
    windows, classes = [], []
    for number, cell in enumerate(cells):
        record = cell if isinstance(cell, dict) else {}
        window, name = record.get("window"), record.get("class")
        if not _is_window(window):
            raise InputError(f"{path} cell {number}: window is {window!r}, expected four whole numbers [px]")
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path} cell {number}: class is {name!r}, expected a name")
        windows.append(Window(*window))
        classes.append(name)
    if len(set(classes)) < 2:
        raise InputError(f"{path} has cells of {classes[0]} alone; ranking cells needs two classes")
    return MosaicTruth(path, tuple(windows), tuple(classes))


def _query(number: int, record: Mapping[str, Any]) -> SeloQuery:
    caption, scene = record["caption"], record["jpg_name"]
    if not isinstance(caption, str) or not clean_text(caption):
        raise InputError(f"caption is {_shown(caption)}, expected what to look for")
    if not isinstance(scene, str) or not scene:
        raise InputError(f"jpg_name is {_shown(scene)}, expected the name of a scene")
    name = PurePosixPath(scene)
    if name.is_absolute() or ".." in name.parts or "\0" in scene:
        raise InputError(f"jpg_name {scene!r} leaves the folder of scenes; name a file inside it")
    points = record["points"]
    if not isinstance(points, list) or not points:
        raise InputError(f"points is {_shown(points)}, expected at least one polygon")
    return SeloQuery(
        number, scene, caption.strip(), tuple(_outline(index, p) for index, p in enumerate(points))
    )


def _outline(index: int, value: Any) -> Outline:
    if not isinstance(value, list) or len(value) < 3:
        found = f"{len(value)} points" if isinstance(value, list) else _shown(value)
        raise InputError(f"polygon {index} is {found}, expected at least 3 points [col, row]")
    for point in value:
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_coordinate, point)):
            raise InputError(f"polygon {index} has the point {_shown(point)}, expected [col, row] in pixels")
    return tuple((float(col), float(row)) for col, row in value)


def _is_window(value: Any) -> TypeGuard[list[int]]:
    whole = isinstance(value, list) and len(value) == 4 and all(type(part) is int for part in value)
    return whole and min(value[:2]) >= 0 and min(value[2:]) >= 1


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6


def _has_selo_form(path: Path) -> bool:
    try:
        return _is_selo(_json(path))
    except InputError:
        return False


def _is_selo(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(record, dict) and all(key in record for key in KEYS) for record in value)
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON in UTF-8 ({error})") from None


def _form(value: Any) -> str:
    """What a JSON value is, for messages."""
    if isinstance(value, dict):
        return f"an object with {', '.join(sorted(map(str, value))[:6]) or 'nothing in it'}"
    if isinstance(value, list):
        return f"a list of {len(value)}, first {_shown(value[0])}" if value else "an empty list"
    return _shown(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
