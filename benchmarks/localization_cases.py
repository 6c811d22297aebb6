"""The scenes, texts and outlines of localization_quality.py, and a model that embeds each window once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.demonstration.judging import outlines_of
from lrsclip_rt.embedder import Embedder
from lrsclip_rt.image_stream import EmbeddedBatch
from lrsclip_rt.localization.selo_annotations import Outline, mosaic_from_file, selo_annotations_from_file
from lrsclip_rt.localization.selo_evaluation import class_phrase
from lrsclip_rt.raster import Scene, open_scene, scene_from_array
from lrsclip_rt.rendering import PHRASES, TEST_SEEDS, render_scene

__all__ = ["CachedModel", "Case", "annotated_cases", "mosaic_case", "rendered_cases"]

_NOWHERE = (
    "snow on mountains", "a sandy desert with dunes", "green farmland in rows", "round irrigated fields",
    "rice terraces", "a glacier", "wind turbines on green hills", "a lake surrounded by forest",
)  # fmt: skip
"""Things that none of the annotated scenes shows."""

_ABSENT = {
    "planet_sfbay_1.jpg": ("a dense forest", "an airport with runways and airplanes"),
    "planet_longbeach_2.jpg": ("a dense forest", "an airport with runways and airplanes"),
    "planet_sfbay_4.jpg": ("a dense forest", "an airport with runways and airplanes"),
    "oam_5b90f92da0d7280005fab355_4310.tif": (
        "an airport with runways and airplanes",
        "white storage tanks",
        "a beach with surf",
        "a harbour with many ships",
    ),
    "planet_airport_1.png": ("a dense forest", "a bridge over a wide river", "a beach with surf"),
}
"""And those that one of them does not show."""

_PRESENT = {
    "planet_sfbay_1.jpg": ("a harbour with many ships", "open sea"),
    "planet_longbeach_2.jpg": ("a harbour with many ships", "open sea", "an island"),
    "planet_sfbay_4.jpg": ("a harbour with many ships", "open sea"),
    "oam_5b90f92da0d7280005fab355_4310.tif": ("a bridge over water", "a car park", "a river"),
    "planet_airport_1.png": ("an airport with runways and airplanes", "a dense residential area"),
}
"""Short texts for what they show, beside those with outlines."""


@dataclass(frozen=True)
class Case:
    """A scene, the outlines of what each text means, and texts that are only right or wrong.

    Attributes:
        name: For people.
        path: Of its file, or None.
        pixels: (H, W, 3) uint8 where there is no file.
        texts: What is asked.
        outlines: Of each text.
        shown: Further texts for what the scene shows.
        absent: Texts for what it does not show.
    """

    name: str
    path: Path | None
    pixels: NDArray[np.uint8] | None
    texts: tuple[str, ...]
    outlines: tuple[tuple[Outline, ...], ...]
    shown: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def opened(self) -> Scene:
        if self.path is not None:
            return open_scene(self.path)
        assert self.pixels is not None
        return scene_from_array(self.pixels)


def annotated_cases(folder: Path) -> Iterator[Case]:
    """Real scenes with outlines drawn by hand."""
    for name, queries in selo_annotations_from_file(folder / "anno_hand.json").by_scene().items():
        texts = tuple(query.caption for query in queries)
        outlines = tuple(query.outlines for query in queries)
        absent = (*_NOWHERE, *_ABSENT.get(name, ()))
        yield Case(name, folder / name, None, texts, outlines, _PRESENT.get(name, ()), absent)


def rendered_cases(count: int) -> Iterator[Case]:
    """Landscapes with exact outlines; of the things that can be rendered, the others are absent."""
    for seed in TEST_SEEDS[:count]:
        scene = render_scene(seed)
        names = [thing.name for thing in scene.objects]
        outlines = tuple(tuple(outlines_of(scene, name)) for name in names)
        absent = tuple(phrase for name, phrase in PHRASES.items() if name not in names)
        texts = tuple(PHRASES[name] for name in names)
        yield Case(f"seed {seed}", None, scene.pixels, texts, outlines, absent=absent)


def mosaic_case(data: Path) -> Case:
    """The mosaic, whose classes have no outlines here but cells, and the classes that it lacks."""
    truth = mosaic_from_file(data / "scenes" / "mosaic_val_1800.json")
    names = sorted(folder.name for folder in (data / "aid_rsicd" / "images").iterdir() if folder.is_dir())
    shown = tuple(class_phrase(name) for name in truth.names)
    absent = tuple(class_phrase(name) for name in names if name not in truth.names)
    return Case("mosaic", data / "scenes" / "mosaic_val_1800.tif", None, (), (), shown, absent)


class CachedModel:
    """The model, with embeddings of windows kept by the hash of their pixels.

    Attributes:
        encodes: Images that the model alone would have embedded so far.
    """

    def __init__(self, model: Embedder, folder: Path) -> None:
        self.bundle = model.bundle
        self.precision = model.precision
        self.encodes = 0
        self.templates = True
        self._model = model
        self._file = folder / f"{model.identity[:16]}-{model.precision}.npz"
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._texts: dict[str, NDArray[np.float32]] = {}
        if self._file.is_file():
            with np.load(self._file) as stored:
                self._rows = dict(zip(stored["keys"].tolist(), stored["rows"], strict=True))

    @property
    def spec(self) -> Any:
        """The model's, without its templates where these are off."""
        return self._model.spec if self.templates else replace(self._model.spec, templates=())

    def embed_texts(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """(T, D) float32, each distinct text embedded once."""
        asked = [texts] if isinstance(texts, str) else list(texts)
        new = [text for text in dict.fromkeys(asked) if text not in self._texts]
        if new:
            self._texts |= dict(zip(new, self._model.embed_texts(new), strict=True))
        return np.stack([self._texts[text] for text in asked])

    def dense_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches, which are not kept: they are many."""
        self.encodes += len(pixels)
        return self._model.dense_pixels(pixels)

    def stream_images(self, items: Any, *, batch_size: int = 32) -> Iterator[EmbeddedBatch[Any]]:
        items = ((key, pixels() if callable(pixels) else pixels) for key, pixels in items)
        while part := list(islice(items, batch_size)):
            self.encodes += len(part)
            names = [hashlib.sha256(str(p.shape).encode() + p.tobytes()).hexdigest()[:32] for _, p in part]
            new = {name: p for name, (_, p) in zip(names, part, strict=True) if name not in self._rows}
            if new:
                rows = self._model.embed_images(list(new.values()))
                self._rows |= dict(zip(new, rows, strict=True))
            keys = [key for key, _ in part]
            found = np.stack([self._rows[name] for name in names])
            yield EmbeddedBatch(keys=keys, embeddings=found, failures=[])

    def save(self) -> None:
        """Keep what was embedded for a later run."""
        keys, rows = list(self._rows), list(self._rows.values())
        np.savez(self._file, keys=np.array(keys), rows=np.array(rows, np.float32))
