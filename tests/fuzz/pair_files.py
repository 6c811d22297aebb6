"""Data sets: pairs.jsonl for evaluation, calibration and training, and labels.csv with classes.json."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fuzz.harness import FilesHarness, packed
from fuzz.mutation import mutated_bytes, mutated_json
from lrsclip_rt.datasets import labelled_set_from_folder, pair_set_from_folder
from lrsclip_rt.errors import LrsclipError
from lrsclip_train.data_records import records_from_folder

__all__ = ["PairsHarness"]

_LINES = (
    {"image": "images/a.jpg", "split": "train", "short": ["a port", "ships"], "long": "A port with ships."},
    {"image": "images/b.jpg", "split": "val", "short": ["a field"], "long": None, "class": "Farmland"},
)
_CLASSES = {
    "classes": ["Port", "Farmland"],
    "prompt_phrases": {"Port": "a port"},
    "templates": ["a photo of {}."],
}


class PairsHarness(FilesHarness):
    """Reads a data set's lists; no image is opened."""

    name = "pairs.jsonl"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root.mkdir()
        self.sound = {
            "pairs.jsonl": "".join(json.dumps(line) + "\n" for line in _LINES).encode(),
            "labels.csv": b"image,label,split\nimages/a.jpg,Port,train\nimages/b.jpg,Farmland,val\n",
            "classes.json": json.dumps(_CLASSES).encode(),
        }
        for name, content in self.sound.items():
            (self.root / name).write_bytes(content)
        pairs = packed({0: self.sound["pairs.jsonl"]})
        self.seeds = [pairs, pairs, pairs, b""]

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """Line by line where it has lines."""
        if name == "labels.csv":
            return mutated_bytes(content, rng)
        if name == "classes.json":
            return mutated_json(content, rng)
        lines = content.split(b"\n")
        place = rng.randrange(len(lines))
        lines[place] = mutated_json(lines[place], rng)
        return rng.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines)

    def feed(self, data: bytes) -> None:
        """Read both lists, and the first as the trainer reads it."""
        self.put(data)
        refused: list[LrsclipError] = []
        for split in (None, "train"):
            for read in (self._read_pairs, self._read_labels):
                try:
                    assert all(path.is_relative_to(self.root) for path in read(split)), "an image outside"
                except LrsclipError as error:
                    refused.append(error)
        said: list[tuple[str, ...]] = []
        try:
            for record in records_from_folder(self.root, split=None, report=lambda *told: said.append(told)):
                assert record.pair.image is not None
        except LrsclipError as error:
            refused.append(error)
        if refused:
            raise refused[0]

    def _read_pairs(self, split: str | None) -> list[Path]:
        found = pair_set_from_folder(self.root, split=split)
        return [found.image_path(item) for item in found.items]

    def _read_labels(self, split: str | None) -> list[Path]:
        found = labelled_set_from_folder(self.root, split=split)
        return [found.image_path(item) for item in found.items]
