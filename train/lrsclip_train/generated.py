"""Made images on disk, for runs that decode at every step: JPEG files and one line of texts for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.errors import InputError
from lrsclip_rt.images import rgb_from_source
from lrsclip_train.training_pairs import TrainingPair
from lrsclip_train.training_samples import Sample, View

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["GeneratedPairs", "generate"]

_QUALITY = 95


def generate(
    folder: Path, views: Iterable[Callable[[], View]], *, advance: Callable[[int], None] = lambda n: None
) -> None:
    """Make the images of ``views`` in ``folder``, unless they are there.

    Args:
        folder: Receives ``0.jpg`` and so on and, last, ``samples.jsonl``.
        views: Recipes; of each the first view is kept.
        advance: Called with the number of images done.
    """
    if (folder / "samples.jsonl").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "samples.partial"
    with temporary.open("w", encoding="utf-8") as index:
        for number, recipe in enumerate(views):
            view = recipe()
            view.images[0].save(folder / f"{number}.jpg", quality=_QUALITY, subsampling=0)
            index.write(json.dumps(asdict(view.sample), ensure_ascii=False) + "\n")
            advance(1)
    temporary.replace(folder / "samples.jsonl")


class GeneratedPairs:
    """What :func:`generate` made.

    Raises:
        InputError: If ``folder`` holds nothing of the kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "samples.jsonl"
        if not path.is_file():
            raise InputError(f"{folder} holds no made images; start the run anew to make them")
        self.samples: list[Sample] = []
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            row |= {name: tuple(row[name]) for name in ("shorts", "wrong", "rows")}
            self.samples.append(Sample(**row))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> TrainingPair:
        sample = self.samples[index]
        return TrainingPair(sample.key, sample.shorts, sample.long, sample.category, as_is=True)

    def key(self, index: int) -> str:
        """Name of the image."""
        return self.samples[index].key

    def image(self, index: int) -> Image.Image:
        """Decode the image."""
        return rgb_from_source(self.folder / f"{index}.jpg")
