"""What the search benchmark searches: real embeddings, enlarged, in an archive that its own writer made."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, ArchiveWriter, ContentRecord, Location, NewTile, Where
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.archive.models import model_from_bundle, producer_from_embedder
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["FILTERS", "INGEST_ROWS", "Materials", "base_and_queries", "enlarged_archive", "ingest_seconds"]

INGEST_ROWS = 200_000
"""Rows that are appended to a new archive to time it."""

SCENE_ROWS = 10_000
"""Tiles of a source: 100 x 100, without overlap."""
_EDGE, _TILE_PX, _STEP_DEG = 100, 256, 0.0025
_SEED = 31
_FIRST_SEED = 7_000_000
_RENDERED = 600
_PARTS = (0.2, 0.8)

FILTERS = {
    "1 %": Where(bbox=(-180, -0.5 * _STEP_DEG, 180, 0)),
    "10 %": Where(bbox=(-180, -9.5 * _STEP_DEG, 180, 0)),
}
"""A band of latitude that every scene reaches with 1 or 10 of its 100 rows of tiles."""


@dataclass(frozen=True)
class Materials:
    """Where the base and the queries lie.

    Attributes:
        base: ``.npy``, ``(n, D)`` float32 embeddings of distinct real tiles.
        queries: JSON list of texts.
        origin: What they are, in words.
    """

    base: Path
    queries: Path
    origin: str


def base_and_queries(
    data: Path | None, scenes: Sequence[Path], work: Path, *, count: int, threads: int
) -> Materials:
    """Embed the train split's images and the scenes' tiles with the built-in model; texts are val captions.

    Args:
        data: Folder with ``pairs.jsonl``; None renders tiles and describes others.
        scenes: Rasters whose tiles are added.
        work: What is there already is not made again.
        count: Texts, all distinct.
        threads: Of the model.

    Raises:
        InputError: If there are fewer distinct texts.
    """
    work.mkdir(parents=True, exist_ok=True)
    base, queries = work / "base.npy", work / "queries.json"
    facts = work / "origin.json"
    if not facts.is_file():
        if data is None:
            images, texts = _rendered(work / "rendered", count)
            origin = "rendered tiles and descriptions of others"
        else:
            train = pair_set_from_folder(data, split="train")
            images = [train.image_path(item) for item in train.items]
            val = pair_set_from_folder(data, split="val")
            texts = sorted({text for item in val.items for text in item.short})
            origin = f"{data.resolve().name}: train images, val captions"
        if len(texts) < count:
            raise InputError(f"{data} has {len(texts)} distinct val captions, expected {count} or more")
        chosen = np.random.default_rng(_SEED).permutation(len(texts))[:count]
        model = load(threads=threads)
        index_sources(work / "base", [*images, *scenes], model, IndexOptions())
        with Archive.open(work / "base") as archive:
            rows = np.concatenate([segment.f16 for segment in archive.mapped_segments]).astype(np.float32)
        np.save(base, np.unique(rows, axis=0))
        queries.write_text(json.dumps([texts[i] for i in chosen]), encoding="utf-8")
        origin += f" and {len(scenes)} scenes" if scenes else ""
        facts.write_text(json.dumps({"origin": origin, "texts": count}), encoding="utf-8")
    held = json.loads(facts.read_text(encoding="utf-8"))
    if held["texts"] != count:
        raise InputError(f"{work} was prepared with {held['texts']} queries, not {count}; use another folder")
    return Materials(base, queries, held["origin"])


@dataclass(frozen=True)
class Made:
    """How an archive was made.

    Attributes:
        rows: Its rows.
        codes_s: To build its codes [s].
        codes: Facts of the codes.
    """

    rows: int
    codes_s: float
    codes: dict[str, Any]


def enlarged_archive(folder: Path, materials: Materials, rows: int, say: Callable[[str], None]) -> Made:
    """An archive of ``rows`` interpolated embeddings with its codes; what is there already is kept.

    Every row lies between two distinct real embeddings, at a random place from 0.2 to 0.8.
    """
    facts = folder.with_name(f"{folder.name}.json")
    if facts.is_file():
        return Made(**json.loads(facts.read_text(encoding="utf-8")))
    from lrsclip_rt.archive.codes.building import build_codes

    _append_scenes(folder, np.load(materials.base), rows, say)
    start = time.perf_counter()
    report = build_codes(folder)
    codes_s = time.perf_counter() - start
    say(f"{folder.name}: codes, {report.calibration}")
    calibration = json.loads(json.dumps(asdict(report.calibration)))
    made = Made(rows, codes_s, {"bytes": report.bytes, **calibration})
    facts.write_text(json.dumps(asdict(made)), encoding="utf-8")
    return made


def ingest_seconds(folder: Path, materials: Materials) -> float:
    """To append and commit ``INGEST_ROWS`` vectors with their tiles to a new archive, removed again [s]."""
    try:
        return _append_scenes(folder, np.load(materials.base), INGEST_ROWS, lambda _: None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _append_scenes(folder: Path, base: NDArray[np.float32], rows: int, say: Callable[[str], None]) -> float:
    """Seconds to append and commit the scenes that ``folder`` lacks; without making their vectors."""
    model = load()
    seconds = 0.0
    with ArchiveWriter(
        folder, model_from_bundle(model.bundle), producer_from_embedder(model), bundle=model.bundle
    ) as writer:
        # A scene is a commit, so that an interrupted run left whole ones.
        for number in range(writer.rows // SCENE_ROWS, -(-rows // SCENE_ROWS)):
            wanted = min(SCENE_ROWS, rows - number * SCENE_ROWS)
            vectors, tiles = interpolated(base, wanted, number), list(_tiles(number, wanted))
            began = time.perf_counter()
            source = writer.add_source(_content(number))
            writer.add_location(source, Location("/benchmark", f"scene-{number:05d}.tif"))
            writer.append(source, tiles, vectors)
            writer.commit()
            seconds += time.perf_counter() - began
            if number % 20 == 19:
                say(f"{folder.name}: {writer.rows} rows")
    return seconds


def interpolated(base: NDArray[np.float32], rows: int, seed: int) -> NDArray[np.float32]:
    """``(rows, D)`` float32 unit rows between random pairs of distinct rows of ``base``."""
    rng = np.random.default_rng((_SEED, seed))
    first = rng.integers(len(base), size=rows)
    second = (first + rng.integers(1, len(base), size=rows)) % len(base)
    part = rng.uniform(*_PARTS, rows).astype(np.float32)[:, None]
    mixed = base[first] * part + base[second] * (1 - part)
    result: NDArray[np.float32] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return result


def _tiles(number: int, rows: int) -> Iterator[NewTile]:
    west0 = -170 + (number % 1_000) * 0.3
    for position in range(rows):
        down, across = divmod(position, _EDGE)
        west, north = west0 + across * _STEP_DEG, -down * _STEP_DEG
        east, south = west + _STEP_DEG, north - _STEP_DEG
        ring = ((west, south), (east, south), (east, north), (west, north), (west, south))
        window = Window(across * _TILE_PX, down * _TILE_PX, _TILE_PX, _TILE_PX)
        yield NewTile(_TILE_PX, window, (west, south, east, north), (ring,), 86_400_000_000 * number, 0.0)


def _content(number: int) -> ContentRecord:
    name = hashlib.sha256(f"benchmark scene {number}".encode()).hexdigest()
    return ContentRecord(name, 1, _EDGE * _TILE_PX, _EDGE * _TILE_PX, "EPSG:4326")


def _rendered(folder: Path, count: int) -> tuple[list[Path], list[str]]:
    from PIL import Image

    from lrsclip_rt.rendering import CLASSES, describe_short, render_tile

    folder.mkdir(parents=True, exist_ok=True)
    images: list[Path] = []
    texts: dict[str, None] = {}
    for seed in range(_FIRST_SEED, _FIRST_SEED + _RENDERED + 20 * count):
        tile = render_tile(CLASSES[seed % len(CLASSES)], seed, size=256)
        if len(images) < _RENDERED:
            images.append(folder / f"{seed}.jpg")
            Image.fromarray(tile.pixels).save(images[-1], quality=90)
        elif len(texts) < count:
            texts[describe_short(tile)] = None
        else:
            break
    return images, list(texts)
