"""Data sets through many models at once: every image is decoded once, every caption tokenised once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backend_choice import Choice
from lrsclip_rt.classification import class_embeddings
from lrsclip_rt.datasets import LabelledSet, PairSet, labelled_set_from_folder, pair_set_from_folder
from lrsclip_rt.embedder import Embedder
from lrsclip_rt.errors import ImageError, InputError, LrsclipError
from lrsclip_rt.image_stream import stream_pixels
from lrsclip_rt.text_batching import refuse_blank

__all__ = [
    "DataSet",
    "ModelAnswers",
    "TaskAnswers",
    "TaskInputs",
    "class_names",
    "class_phrase",
    "data_sets_from_folder",
    "embed_everywhere",
    "image_paths",
    "inputs_from_sets",
]

DataSet: TypeAlias = PairSet | LabelledSet
"""Captioned images, or images with one class each."""

R = TypeVar("R")
Rows: TypeAlias = NDArray[np.float32]

_IMAGES_PER_CALL = 8
_TEXTS_PER_CALL = 256


@dataclass(frozen=True, slots=True, eq=False)
class TaskInputs:
    """What the sets ask for, each thing once.

    Attributes:
        sets: Where it comes from.
        paths: Distinct images.
        captions: Distinct captions, short and long.
    """

    sets: tuple[DataSet, ...]
    paths: tuple[Path, ...]
    captions: tuple[str, ...]

    @property
    def steps(self) -> int:
        """What ``embed_everywhere`` counts: images and captions."""
        return len(self.paths) + len(self.captions)


@dataclass(frozen=True, slots=True, eq=False)
class ModelAnswers:
    """Unit rows of one model.

    Attributes:
        images: ``(n, D) float32``.
        captions: ``(m, D) float32``.
        classes: ``(C, D) float32`` of each set, None for one without classes.
    """

    images: Rows
    captions: Rows
    classes: tuple[Rows | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TaskAnswers:
    """What the models made of the inputs.

    Attributes:
        inputs: What they were asked.
        image_rows: The row of each image that could be read.
        caption_rows: The row of each caption.
        failures: Images that could not be read.
        models: Answers of each model.
        errors: Why a model has no answers.
    """

    inputs: TaskInputs
    image_rows: Mapping[Path, int]
    caption_rows: Mapping[str, int]
    failures: tuple[tuple[Path, ImageError], ...]
    models: Mapping[Choice, ModelAnswers]
    errors: Mapping[Choice, LrsclipError]


def data_sets_from_folder(folder: str | Path, *, split: str | None = None) -> list[DataSet]:
    """Read what a folder holds: captioned images, labelled images or both.

    Args:
        folder: With pairs.jsonl, or labels.csv and classes.json.
        split: The part to use. A file that names no split at all is used whole.

    Raises:
        InputError: If the folder holds neither, a file is malformed, or it has splits but not this one.
    """
    root = Path(folder)
    sets: list[DataSet] = []
    if (root / "pairs.jsonl").is_file() or not (root / "labels.csv").is_file():
        whole = pair_set_from_folder(root)
        parted = split is not None and any(item.split for item in whole.items)
        sets.append(pair_set_from_folder(root, split=split) if parted else whole)
    if (root / "labels.csv").is_file():
        own = split if split is not None and _has_split_column(root / "labels.csv") else None
        sets.append(labelled_set_from_folder(root, split=own))
    return sets


def inputs_from_sets(sets: Sequence[DataSet]) -> TaskInputs:
    """Collect the distinct images and captions of the sets.

    Raises:
        InputError: If there is no set, or a caption says nothing.
    """
    if not sets:
        raise InputError("no data set was given, expected at least one")
    paths = dict.fromkeys(path for data in sets for path in image_paths(data))
    captions = dict.fromkeys(
        text
        for data in sets
        if isinstance(data, PairSet)
        for item in data.items
        for text in (*item.short, *([] if item.long is None else [item.long]))
    )
    refuse_blank(list(captions))
    return TaskInputs(tuple(sets), tuple(paths), tuple(captions))


def embed_everywhere(
    models: Mapping[Choice, Embedder],
    inputs: TaskInputs,
    *,
    yardstick: Choice,
    advance: Callable[[int], None] = lambda n: None,
) -> TaskAnswers:
    """Run every model on the same pixels and tokens.

    Args:
        models: Of one bundle, so that one preprocessing and one tokenizer serve all.
        inputs: What to run.
        yardstick: The model without which nothing can be said; the error of another is kept, and the rest
            goes on.
        advance: Called with the number of images and captions that all models have done.

    Raises:
        InputError: If no image of a set can be read.
        LrsclipError: If the yardstick cannot run.
    """
    runs = _Runs(dict(models), yardstick)
    spec = models[yardstick].spec
    nothing = np.empty((0, spec.embed_dim), np.float32)
    images, captions = ({choice: [nothing] for choice in models} for _ in range(2))
    kept: list[Path] = []
    failures: list[tuple[Path, ImageError]] = []
    items = ((path, path) for path in inputs.paths)
    for batch in stream_pixels(items, spec.pixel_spec, batch_size=_IMAGES_PER_CALL):
        for choice, rows in runs.each(methodcaller("embed_pixels", batch.pixels)).items():
            images[choice].append(rows)
        kept += batch.keys
        failures += batch.failures
        advance(len(batch.keys) + len(batch.failures))
    image_rows = {path: row for row, path in enumerate(kept)}
    _refuse_unreadable(inputs.sets, image_rows)
    for start in range(0, len(inputs.captions), _TEXTS_PER_CALL):
        part = inputs.captions[start : start + _TEXTS_PER_CALL]
        batched = models[yardstick].tokenizer.encode_batch(part)
        for choice, rows in runs.each(methodcaller("embed_tokens", batched)).items():
            captions[choice].append(rows)
        advance(len(part))
    classes = runs.each(lambda model: tuple(_class_rows(model, data) for data in inputs.sets))
    answers = {
        choice: ModelAnswers(np.concatenate(images[choice]), np.concatenate(captions[choice]), rows)
        for choice, rows in classes.items()
    }
    caption_rows = {text: row for row, text in enumerate(inputs.captions)}
    return TaskAnswers(inputs, image_rows, caption_rows, tuple(failures), answers, runs.errors)


def image_paths(data: DataSet) -> list[Path]:
    """Where the images of a set should be, in its order."""
    return [data.root / item.image for item in data.items]


def class_names(data: DataSet) -> tuple[str, ...]:
    """The classes of a set; of captioned images those that its lines name, none where they name only one."""
    if isinstance(data, LabelledSet):
        return data.classes
    names = sorted({item.category for item in data.items if item.category})
    return tuple(names) if len(names) > 1 else ()


def class_phrase(name: str) -> str:
    """What stands for the class of a captioned image in a prompt.

    Example:
        >>> class_phrase("BareLand"), class_phrase("storage_tanks")
        ('bare land', 'storage tanks')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name).strip().lower()


class _Runs:
    """Models that still answer: one that fails is left out from then on, with its error."""

    def __init__(self, models: dict[Choice, Embedder], yardstick: Choice) -> None:
        self._models = models
        self._yardstick = yardstick
        self.errors: dict[Choice, LrsclipError] = {}

    def each(self, run: Callable[[Embedder], R]) -> dict[Choice, R]:
        """What ``run`` gives for each model that still answers."""
        found: dict[Choice, R] = {}
        for choice, model in list(self._models.items()):
            try:
                found[choice] = run(model)
            except LrsclipError as error:
                if choice == self._yardstick:
                    raise
                self.errors[choice] = error
                del self._models[choice]
        return found


def _class_rows(model: Embedder, data: DataSet) -> Rows | None:
    """Rows of the classes of a set, with its own templates or the bundle's."""
    bundles = model.spec.templates or ("{}",)
    if isinstance(data, LabelledSet):
        return class_embeddings(model, data.phrases, data.templates or bundles)
    phrases = [class_phrase(name) for name in class_names(data)]
    return class_embeddings(model, phrases, bundles) if phrases else None


def _refuse_unreadable(sets: Sequence[DataSet], image_rows: Mapping[Path, int]) -> None:
    for data in sets:
        if not any(path in image_rows for path in image_paths(data)):
            raise InputError(f"none of the {len(data)} images of {data.root} can be read; nothing to compare")


def _has_split_column(path: Path) -> bool:
    header = path.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0]
    return "split" in next(csv.reader(io.StringIO(header)), [])
