"""STAC items, item collections and catalogues on this machine: their files, and what they say of them.

Only what indexing needs is read, and all of that strictly: an item that breaks the rules is refused by name
and the others go on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lrsclip_rt.archive.times import time_us_from_text
from lrsclip_rt.errors import InputError

__all__ = [
    "ItemFacts",
    "ItemGeoreference",
    "RefusedItem",
    "StacAsset",
    "assets_from_stac",
    "is_stac",
    "stac_in_folder",
]

DEFAULT_ASSET = "visual"
MAX_BYTES = 64 * 2**20
"""Largest JSON document that is parsed: some ten thousand items."""

MAX_CATALOG_DEPTH = 16
"""Catalogues within catalogues."""

SUFFIXES = frozenset({".json", ".geojson"})
CATALOG_NAMES = ("catalog.json", "collection.json")
_BESIDE_DATA = frozenset({"thumbnail", "overview", "metadata"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_CODE = re.compile(r"[A-Za-z]+:\d{1,9}")


@dataclass(frozen=True, slots=True)
class ItemGeoreference:
    """Place by the projection extension: for files that carry none themselves.

    Attributes:
        crs: For example "EPSG:32633".
        transform: a, b, c, d, e, f from pixels to the CRS.
        height: Rows that this holds for [px].
        width: Columns that this holds for [px].
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What an item says of its file.

    Attributes:
        metadata: ``id``, ``collection`` and every property that is a text, a number or true or false.
        time_us: ``datetime``, else ``start_datetime``: microseconds since the epoch, UTC.
        georeference: Of the projection extension, where its fields are complete.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    time_us: int | None = None
    georeference: ItemGeoreference | None = None


@dataclass(frozen=True, slots=True)
class StacAsset:
    """A local file that an item names."""

    path: Path
    facts: ItemFacts


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item or document that cannot be used; ``name`` is its file, with its id if it is one of several."""

    name: str
    reason: str


def is_stac(path: Path) -> bool:
    """Whether a file is to be read as STAC: by its ending.

    Example:
        >>> is_stac(Path("item.json")), is_stac(Path("scene.tif"))
        (True, False)
    """
    return path.suffix.lower() in SUFFIXES


def stac_in_folder(folder: Path) -> Path | None:
    """The catalogue of a folder: its ``catalog.json`` or ``collection.json`` that names a STAC version."""
    for name in CATALOG_NAMES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            document = _document(path)
        except InputError:
            return path  # its reader will say what is wrong
        if isinstance(document.get("stac_version"), str):
            return path
    return None


def assets_from_stac(path: Path, *, asset: str | None = None) -> Iterator[StacAsset | RefusedItem]:
    """The file of every item of an Item, a FeatureCollection of items, or a Catalog or Collection with links.

    Args:
        path: The JSON document. Links and hrefs are relative to the document that holds them.
        asset: Key of the asset to take. Default ``visual``; else the one asset with the role ``data``; else
            the one image that is neither thumbnail nor overview.

    Yields:
        Assets and refused items, in the order of the documents.
    """
    yield from _assets_of_document(_without_links(path), asset, set(), 0)


def _assets_of_document(
    path: Path, asset: str | None, seen: set[Path], depth: int
) -> Iterator[StacAsset | RefusedItem]:
    seen.add(path)
    try:
        document = _document(path)
        kind = document.get("type")
        if kind not in ("Feature", "FeatureCollection", "Catalog", "Collection"):
            raise InputError(
                f"its type is {kind!r:.60}; expected a STAC Item, FeatureCollection, Catalog or Collection"
            )
        if kind == "FeatureCollection":
            features = _value(document, "features", list, "a list of items")
        elif kind == "Feature":
            yield StacAsset(*_asset_of_item(document, path.parent, asset))
            return
        else:
            links = list(_links(document, path, depth))
    except InputError as error:
        yield RefusedItem(str(path), str(error))
        return
    if kind == "FeatureCollection":
        yield from _assets_of_features(features, path, asset)
        return
    for target in links:
        if target not in seen:
            yield from _assets_of_document(target, asset, seen, depth + 1)


def _assets_of_features(
    features: Sequence[Any], path: Path, asset: str | None
) -> Iterator[StacAsset | RefusedItem]:
    if not features:
        yield RefusedItem(str(path), "it holds no items; give a FeatureCollection with some")
    for number, feature in enumerate(features):
        identifier = feature.get("id") if isinstance(feature, dict) else None
        try:
            yield StacAsset(*_asset_of_item(feature, path.parent, asset))
        except InputError as error:
            named = f"#{identifier}" if isinstance(identifier, str) else f" item {number}"
            yield RefusedItem(f"{path}{named}", str(error))


def _document(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} holds {size} bytes, at most {MAX_BYTES} are read; cut it into parts")
        text = path.read_text(encoding="utf-8")
        document = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check its rights") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no valid JSON ({error or type(error).__name__})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds {document!r:.40}, expected a JSON object")
    return document


def _without_links(path: Path) -> Path:
    """The path itself where links lead in a circle; ``Path.resolve`` raises for that until Python 3.13."""
    return Path(os.path.realpath(path))


def _links(document: dict[str, Any], path: Path, depth: int) -> Iterator[Path]:
    """Where the children and items of a catalogue lie."""
    if depth >= MAX_CATALOG_DEPTH:
        raise InputError(f"it lies more than {MAX_CATALOG_DEPTH} catalogues deep; name an inner one")
    found = False
    for link in _value(document, "links", list, "a list of links"):
        if not isinstance(link, dict) or not isinstance(link.get("rel"), str):
            raise InputError(f"a link is {link!r:.60}; expected an object with rel and href")
        if link["rel"] in ("child", "item"):
            found = True
            yield _without_links(_local_path(_value(link, "href", str, "a text"), path.parent))
    if not found:
        raise InputError("it links to no items and no children; name a catalogue that does")


def _asset_of_item(item: Any, folder: Path, key: str | None) -> tuple[Path, ItemFacts]:
    if not isinstance(item, dict) or item.get("type") != "Feature":
        raise InputError(f"a STAC item is an object of the type Feature, got {item!r:.60}")
    if not isinstance(item.get("stac_version"), str):
        raise InputError("it has no stac_version; expected a STAC item, not any GeoJSON feature")
    identifier = _value(item, "id", str, "a text")
    properties = _value(item, "properties", dict, "an object")
    asset = _chosen_asset(_value(item, "assets", dict, "an object"), key)
    path = _local_path(_value(asset, "href", str, "a text"), folder)
    metadata = {name: text for name, value in properties.items() if (text := _text(name, value)) is not None}
    metadata["id"] = _storable("id", identifier)
    if isinstance(item.get("collection"), str):
        metadata["collection"] = _storable("collection", item["collection"])
    return path, ItemFacts(metadata, _time_us(properties), _georeference({**properties, **asset}))


def _chosen_asset(assets: dict[str, Any], key: str | None) -> dict[str, Any]:
    broken = [name for name, asset in assets.items() if not isinstance(asset, dict)]
    if broken:
        raise InputError(f"its asset {broken[0]!r} is no object")
    named: dict[str, dict[str, Any]] = assets
    if key is not None or DEFAULT_ASSET in named:
        wanted = DEFAULT_ASSET if key is None else key
        if wanted not in named:
            raise InputError(f"it has no asset {wanted!r}; its assets are {_listed(named)}")
        return named[wanted]
    data = [asset for asset in named.values() if "data" in _roles(asset)]
    pictures = [
        asset
        for asset in named.values()
        if str(asset.get("type", "")).startswith("image/") and not _BESIDE_DATA & _roles(asset)
    ]
    for candidates in (data, pictures):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    raise InputError(f"it is not clear which of its assets to take, {_listed(named)}; name one with --asset")


def _roles(asset: dict[str, Any]) -> set[str]:
    roles = asset.get("roles", [])
    return {role for role in roles if isinstance(role, str)} if isinstance(roles, list) else set()


def _listed(assets: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(assets)[:20])) or "none"


def _local_path(href: str, folder: Path) -> Path:
    """A file of this machine; a path with or without percent signs, or a ``file:`` URL."""
    scheme = _SCHEME.match(href)
    if scheme is not None and scheme[1].lower() != "file":
        raise InputError(f"{href} is not on this machine; files must be local: fetch it first")
    try:
        if "\0" in href:
            raise ValueError("it holds a zero byte")
        os.fsencode(unquote(href))  # refuses half a character
        if scheme is not None:
            parts = urlsplit(href)
            if parts.netloc not in ("", "localhost"):
                raise InputError(f"{href} lies on another machine; files must be local")
            return Path(unquote(parts.path))
        # Hrefs are URI references, where a blank is %20; many writers put plain paths there instead.
        plain = folder / href
        return plain if plain.exists() else folder / unquote(href)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{href!r:.80} is no path ({error})") from error


def _time_us(properties: dict[str, Any]) -> int:
    value = properties.get("datetime")
    value = properties.get("start_datetime") if value is None else value
    if not isinstance(value, str):
        raise InputError("it has neither datetime nor start_datetime; a STAC item has one of them")
    return time_us_from_text(value)


def _georeference(fields: dict[str, Any]) -> ItemGeoreference | None:
    """Place by ``proj:code`` (or ``proj:epsg``), ``proj:transform`` and ``proj:shape``; None if one lacks."""
    code = fields.get("proj:code")
    if code is None and fields.get("proj:epsg") is not None:
        code = f"EPSG:{fields['proj:epsg']}"
    transform, shape = fields.get("proj:transform"), fields.get("proj:shape")
    if code is None or transform is None or shape is None:
        return None
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise InputError(f"its proj:code is {code!r:.60}; expected for example 'EPSG:32633'")
    if not isinstance(transform, list) or len(transform) not in (6, 9) or not all(map(_finite, transform)):
        raise InputError(f"its proj:transform is {transform!r:.60}; expected six or nine numbers")
    if not isinstance(shape, list) or len(shape) != 2 or not all(_is_length(side) for side in shape):
        raise InputError(f"its proj:shape is {shape!r:.60}; expected [rows, columns]")
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    return ItemGeoreference(code.upper(), (a, b, c, d, e, f), shape[0], shape[1])


def _text(name: str, value: Any) -> str | None:
    """A scalar property as text; None for what is none."""
    if isinstance(value, str):
        return _storable(name, value)
    if isinstance(value, (bool, int, float)):
        return _storable(name, json.dumps(value))
    return None


def _storable(name: str, text: str) -> str:
    try:
        (name + text).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"its {name!a} holds half a character ({error.reason})") from error
    return text


def _value(record: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    value = record.get(key)
    if not isinstance(value, kind) or value == "":
        raise InputError(f"its {key} must be {expected}, got {value!r:.60}")
    return value


def _finite(value: Any) -> bool:
    # Also false for whole numbers beyond any float, where isfinite would raise.
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) < 1e300


def _is_length(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int) and 0 < value < 2**31


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
