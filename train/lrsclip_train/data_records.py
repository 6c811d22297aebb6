"""Read ``pairs.jsonl`` without giving up at a bad line: for looking through data, not for training on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lrsclip_rt.errors import InputError
from lrsclip_rt.image_decoding import one_line, shown_name
from lrsclip_train.training_pairs import StoredImage, TrainingPair

__all__ = ["DataRecord", "records_from_folder"]


@dataclass(frozen=True, slots=True)
class DataRecord:
    """What can be used of a line, and how many of its short captions were empty."""

    pair: TrainingPair
    empty: int = 0


def records_from_folder(
    folder: Path, *, split: str | None, report: Callable[[str, str], None]
) -> Iterator[DataRecord]:
    """Read what :func:`lrsclip_rt.datasets.pair_set_from_folder` reads, and go on where that refuses.

    Args:
        folder: The data set.
        split: Yield the lines of this split alone; all are looked at.
        report: Called with the place and the reason of whatever that function would refuse.

    Yields:
        Every line that names an image, with the captions that can be used.

    Raises:
        InputError: If the file cannot be read.
    """
    path = folder / "pairs.jsonl"
    if not path.is_file():  # a device or a pipe may never end
        raise InputError(f"{shown_name(path)} does not exist or is no regular file; check the path")
    seen: set[bytes] = set()
    try:
        # Bytes that are not UTF-8 come out as lone surrogates, so that they spoil one line and not the file.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                reasons: list[str] = []
                found = _record(line, reasons)
                if found is not None:
                    digest = hashlib.sha256(found["image"].encode("utf-8", "surrogatepass")).digest()[:16]
                    if digest in seen:
                        reasons.append(f"{found['image']} occurs twice; join its captions")
                    seen.add(digest)
                for reason in reasons:
                    report(f"line {number}", reason)
                if found is not None and split in (None, found["split"]):
                    yield _data_record(folder, found)
    except OSError as error:
        raise InputError(f"{shown_name(path)} cannot be read ({one_line(error)})") from error


def _record(line: str, reasons: list[str]) -> dict[str, Any] | None:
    """The usable parts of a line; ``reasons`` receives what is wrong with it."""
    if any("\udc80" <= character <= "\udcff" for character in line):
        reasons.append("not UTF-8; save it as UTF-8")
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reasons.append(f"not JSON ({one_line(error)})")
        return None
    if not isinstance(record, dict):
        reasons.append(f"found {record!r:.60}, expected a JSON object")
        return None
    image = record.get("image")
    if not isinstance(image, str) or not image:
        reasons.append(f"image is {image!r:.60}, expected a path relative to the data set")
        return None
    if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts or "\0" in image:
        reasons.append(f"image {image!r:.60} leaves the data set; use a path relative to its folder")
        return None
    return {"image": image, **_captions(record, reasons), **_names(record, reasons)}


def _captions(record: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
    given, long = record.get("short", []), record.get("long")
    if not isinstance(given, list):
        reasons.append(f"short is {given!r:.60}, expected a list of captions")
        given = []
    texts = [text for text in given if isinstance(text, str)]
    shorts = [text for text in texts if text.strip()]
    if len(texts) < len(given):
        reasons.append(f"short holds {len(given) - len(texts)} values that are no texts")
    if len(shorts) < len(texts):
        reasons.append(f"short holds {len(texts) - len(shorts)} empty captions; leave them out")
    if long is not None and not isinstance(long, str):
        reasons.append(f"long is {long!r:.60}, expected one caption or null")
        long = None
    long = long if long and long.strip() else ""
    if not given and not long:
        reasons.append("no caption, expected short (a list), long or both")
    return {"shorts": shorts, "long": long, "empty": len(texts) - len(shorts)}


def _names(record: dict[str, Any], reasons: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in ("split", "class"):
        value = record.get(key, "")
        if not isinstance(value, str):
            reasons.append(f"{key} is {value!r:.60}, expected a name")
            value = ""
        names[key] = value
    return names


def _data_record(folder: Path, found: dict[str, Any]) -> DataRecord:
    image = StoredImage(folder / found["image"])
    shorts = tuple(found["shorts"])
    return DataRecord(
        TrainingPair(found["image"], shorts, found["long"], found["class"], image), found["empty"]
    )
