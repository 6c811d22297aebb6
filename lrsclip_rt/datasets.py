"""Data sets on disk: a folder with ``pairs.jsonl``, or with ``labels.csv`` and ``classes.json``.

``pairs.jsonl``  one image a line: ``{"image": "images/a.jpg", "short": ["..."], "long": "..."}``
``labels.csv``   a header ``image,label`` or ``image,label,split``, then one image a line
``classes.json`` ``{"classes": [...], "prompt_phrases": {class: phrase}, "templates": ["a photo of {}."]}``

A line of pairs may name its ``split``; splits, ``long``, phrases and templates may be absent. Image paths are
relative to the folder and stay inside it.

Whether the images exist is found out when they are read, so that one missing file costs one pair.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from lrsclip_rt.errors import InputError

__all__ = [
    "CaptionedImage",
    "LabelledImage",
    "LabelledSet",
    "PairSet",
    "labelled_set_from_folder",
    "pair_set_from_folder",
]


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One line of ``pairs.jsonl``.

    Attributes:
        image: Path relative to the folder, with ``/``.
        short: Its short captions, none empty.
        long: Its long caption, if it has one.
        split: The part of the data it belongs to, "" if the line names none.
        category: Its class, "" if the line names none.
    """

    image: str
    short: tuple[str, ...]
    long: str | None = None
    split: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class PairSet:
    """Images with captions.

    Attributes:
        root: The folder.
        split: The split that was asked for, None for all.
        items: Images in file order.
    """

    root: Path
    split: str | None
    items: tuple[CaptionedImage, ...]

    def __len__(self) -> int:
        return len(self.items)

    def image_path(self, item: CaptionedImage) -> Path:
        """Where the image should be."""
        return self.root / item.image


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One row of ``labels.csv``: the image and the index of its class."""

    image: str
    label: int


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Images with one class each.

    Attributes:
        root: The folder.
        split: The split that was asked for, None for all.
        items: Images in file order.
        classes: Class names as in ``labels.csv``.
        phrases: What stands for each class in a prompt, in class order; the name itself where none is given.
        templates: Prompt templates with ``{}``, None where ``classes.json`` has none.
    """

    root: Path
    split: str | None
    items: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    phrases: tuple[str, ...]
    templates: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.items)

    def image_path(self, item: LabelledImage) -> Path:
        """Where the image should be."""
        return self.root / item.image


def pair_set_from_folder(folder: str | Path, *, split: str | None = None) -> PairSet:
    """Read ``pairs.jsonl``.

    Args:
        folder: The data set.
        split: Keep this split alone; None keeps every image.

    Raises:
        InputError: If the file is missing or malformed (the line is named), an image occurs twice in it, or
            the split is empty.
    """
    root = Path(folder)
    path = _existing(root, "pairs.jsonl")
    items: list[CaptionedImage] = []
    seen: set[str] = set()
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        item = _captioned_image(_json(line, where=f"{path} line {number}"), where=f"{path} line {number}")
        if item.image in seen:
            raise InputError(f"{path} line {number}: {item.image} occurs twice; join its captions")
        seen.add(item.image)
        items.append(item)
    kept = items if split is None else [item for item in items if item.split == split]
    _refuse_empty(path, split, len(kept), {item.split for item in items})
    return PairSet(root=root, split=split, items=tuple(kept))


def labelled_set_from_folder(folder: str | Path, *, split: str | None = None) -> LabelledSet:
    """Read ``labels.csv`` and ``classes.json``.

    Args:
        folder: The data set.
        split: Keep the rows of this split alone; None keeps every row.

    Raises:
        InputError: If a file is missing or malformed (the line is named), a label is no class, or the split
            is empty.
    """
    root = Path(folder)
    path = _existing(root, "labels.csv")
    classes, phrases, templates = _classes(_existing(root, "classes.json"))
    index = {name: position for position, name in enumerate(classes)}
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    header = reader.fieldnames or []
    if "image" not in header or "label" not in header:
        raise InputError(f"{path}: found columns {', '.join(header) or 'none'}, expected image,label")
    if split is not None and "split" not in header:
        raise InputError(f"{path} has no column split, so --split {split} selects nothing; leave it out")
    items: list[LabelledImage] = []
    splits: set[str] = set()
    try:
        for row in reader:
            where = f"{path} line {reader.line_num}"
            image = _inner_path(row["image"], where=where)
            label = row["label"]
            if label not in index:
                raise InputError(f"{where}: label {label!r} is not among the {len(classes)} of classes.json")
            splits.add(row.get("split") or "")
            if split is None or row["split"] == split:
                items.append(LabelledImage(image=image, label=index[label]))
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: not readable as CSV ({error})") from None
    _refuse_empty(path, split, len(items), splits)
    return LabelledSet(
        root=root, split=split, items=tuple(items), classes=classes, phrases=phrases, templates=templates
    )


def _captioned_image(record: Mapping[str, Any], *, where: str) -> CaptionedImage:
    short = record.get("short", [])
    long = record.get("long")
    split = record.get("split", "")
    category = record.get("class", "")
    if not isinstance(short, list) or not all(isinstance(text, str) and text.strip() for text in short):
        raise InputError(f"{where}: short is {_shown(short)}, expected a list of captions, none empty")
    if long is not None and not isinstance(long, str):
        raise InputError(f"{where}: long is {_shown(long)}, expected one caption or null")
    if not isinstance(split, str):
        raise InputError(f"{where}: split is {_shown(split)}, expected a name")
    if not isinstance(category, str):
        raise InputError(f"{where}: class is {_shown(category)}, expected a name")
    long = long if long and long.strip() else None
    if not short and long is None:
        raise InputError(f"{where}: no caption, expected short (a list), long or both")
    return CaptionedImage(
        image=_inner_path(record.get("image"), where=where),
        short=tuple(short),
        long=long,
        split=split,
        category=category,
    )


def _classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]:
    record = _json(_text(path), where=str(path))
    classes = record.get("classes")
    if not _is_names(classes) or len(set(classes)) != len(classes):
        raise InputError(f"{path}: classes is {_shown(classes)}, expected a list of distinct names")
    phrases = record.get("prompt_phrases", {})
    if not isinstance(phrases, dict) or (phrases and not _is_names(list(phrases.values()))):
        raise InputError(f"{path}: prompt_phrases is {_shown(phrases)}, expected a phrase for each class")
    unknown = sorted(set(phrases) - set(classes))
    if unknown:
        raise InputError(f"{path}: prompt_phrases names {unknown[0]!r}, which is not one of the classes")
    templates = record.get("templates")
    if templates is not None and not (_is_names(templates) and all("{}" in text for text in templates)):
        raise InputError(f"{path}: templates is {_shown(templates)}, expected texts that contain {{}}")
    return (
        tuple(classes),
        tuple(phrases.get(name, name) for name in classes),
        None if templates is None else tuple(templates),
    )


def _is_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)


def _existing(root: Path, name: str) -> Path:
    path = root / name
    if not root.is_dir():
        raise InputError(f"{root} is not a folder, expected a data set with {name}")
    if not path.is_file():
        raise InputError(
            f"{root} has no {name}; a data set holds pairs.jsonl (captions) or labels.csv and classes.json"
        )
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _json(text: str, *, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {_shown(record)}, expected a JSON object")
    return record


def _inner_path(value: Any, *, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: image is {_shown(value)}, expected a path relative to the data set")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\0" in value:
        raise InputError(f"{where}: image {value!r} leaves the data set; use a path relative to its folder")
    return value


def _refuse_empty(path: Path, split: str | None, kept: int, splits: set[str]) -> None:
    if kept:
        return
    if split is None:
        raise InputError(f"{path} names no image, expected at least one")
    known = ", ".join(sorted(name for name in splits if name)) or "none"
    raise InputError(f"{path} has no image in split {split!r}; splits found: {known}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
