"""Make what the candidates read: bundles, checkpoints, a data set, and files of OpenVINO's own quantiser."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side_by_side.candidates import Candidate, ModelFiles
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import InputError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.parity import SETTINGS

__all__ = ["MODELS", "Materials", "Preparation", "materials_from_folder", "write_rendered_pairs"]

MODELS = ("mini", "vit-b-16", "vit-b-16-wide", "tiny", "tiny-wide")
"""Models that can be prepared."""

_FIRST_SEED = 6_000_000
_TRAIN_TILES = 64
"""As few as a calibration takes."""


@dataclass(frozen=True)
class Materials:
    """Real inputs.

    Attributes:
        paths: Images.
        texts: Captions, of which every fourth is a long one where there are any.
        origin: What they are, in words.
    """

    paths: tuple[Path, ...]
    texts: tuple[str, ...]
    origin: str


def write_rendered_pairs(folder: Path, checked: int) -> Path:
    """A data set of rendered tiles for a machine without real ones: JPEG files, a train and a val split."""
    from PIL import Image

    from lrsclip_rt.rendering import CLASSES, describe_long, describe_short, render_tile

    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(_TRAIN_TILES + checked):
        tile = render_tile(CLASSES[index % len(CLASSES)], _FIRST_SEED + index, size=256)
        name = f"images/{index:03}.jpg"
        Image.fromarray(tile.pixels).save(folder / name, quality=90)
        lines.append(
            {
                "image": name,
                "short": [describe_short(tile)],
                "long": describe_long(tile),
                "split": "train" if index < _TRAIN_TILES else "val",
            }
        )
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")
    return folder


def materials_from_folder(folder: Path, count: int) -> Materials:
    """``count`` images, evenly spread over the val split (over all without one), with a caption each.

    Raises:
        InputError: If the folder has no ``pairs.jsonl``, or fewer images.
        ImageError: If the first image cannot be read.
    """
    pairs = pair_set_from_folder(folder)
    if any(item.split == "val" for item in pairs.items):
        pairs = pair_set_from_folder(folder, split="val")
    if len(pairs) < count:
        raise InputError(f"{folder} has {len(pairs)} images to compare on, expected {count}; lower --checks")
    items = [pairs.items[i * len(pairs) // count] for i in range(count)]
    texts = [
        item.long if item.long and (index % 4 == 3 or not item.short) else item.short[0]
        for index, item in enumerate(items)
    ]
    paths = tuple(pairs.image_path(item) for item in items)
    width, height = rgb_from_source(paths[0]).size
    split = "" if pairs.split is None else f" {pairs.split}"
    origin = f"{folder.resolve().name}{split}, the first of {width} x {height} px"
    return Materials(paths, tuple(dict.fromkeys(texts)), origin)


class Preparation:
    """The steps for one model; each is run in a process of its own, which then gives its memory back."""

    def __init__(self, name: str, folder: Path, data: Path) -> None:
        # What is compiled and hashed here is of no use to anyone later.
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache" / "preparation")
        self._name, self._folder, self._data = name, folder, data

    def bundle(self, candidates: Sequence[Candidate]) -> ModelFiles:
        """Write checkpoint and bundle, with the precisions that the candidates need.

        Raises:
            InputError: If int8 is needed and the data are too few to calibrate on.
            ParityError: If the fp32 graphs do not answer as the checkpoint does.
        """
        import torch

        from benchmarks.side_by_side.weights import (
            CONFIGS,
            WIDE,
            random_state,
            state_from_bundle,
            widened,
        )
        from lrsclip_export.exporting import export_bundle

        wanted = {SETTINGS.get(c.precision, c.precision) for c in candidates if c.ours} - {"fp32"}
        checkpoint, out = self._folder / f"{self._name}.pt", self._folder / "bundle"
        nncf = self._folder / "nncf"
        if self._name == "mini":
            built_in = Bundle.open(None).path
            torch.save(state_from_bundle(built_in), checkpoint)
            missing = sorted(wanted - set(Bundle.open(built_in).precisions))
            if not missing:
                return ModelFiles("mini", "built in", built_in, checkpoint, nncf)
            source, weights, precisions = built_in, "built in", missing
        else:
            shape = self._name.removesuffix(WIDE)
            state = random_state(CONFIGS[shape])
            wide = shape != self._name
            torch.save(widened(state) if wide else state, checkpoint)
            source, precisions = checkpoint, ["fp32", *sorted(wanted)]
            weights = "random, 6 wide channels a norm" if wide else "random"
        calibration = self._data if "int8" in precisions else None
        # One that falls below its gate is shown too, and marked.
        export_bundle(source, out, precisions=precisions, calibration=calibration, allow_failed=True)
        return ModelFiles(self._name, weights, out, checkpoint, nncf)

    def quantise_with_nncf(self, files: ModelFiles) -> dict[str, Any]:
        """OpenVINO's post-training quantisation of both fp32 graphs, on the images and texts of ours.

        Returns:
            Its version and what it saw.
        """
        import openvino

        from lrsclip_export.calibration import calibration_from_folder

        nncf = importlib.import_module("nncf")
        bundle = Bundle.open(files.bundle)
        seen = calibration_from_folder(self._data, bundle.spec, bundle.vocabulary_path)
        images = [{"pixels": row[None]} for row in seen.pixels]
        rows = zip(seen.texts.tokens.astype(np.int32), seen.texts.eot.astype(np.int32), strict=True)
        texts = [{"tokens": tokens[None], "eot": np.array([end], np.int32)} for tokens, end in rows]
        files.nncf.mkdir()
        for graph, samples in (("image", images), ("text-248", texts)):
            model = openvino.Core().read_model(str(bundle.graph_path(graph, "fp32")))
            # Its documented setting for transformers; all else as it comes.
            with contextlib.redirect_stdout(sys.stderr):
                quantised = nncf.quantize(
                    model,
                    nncf.Dataset(samples),
                    model_type=nncf.ModelType.TRANSFORMER,
                    subset_size=len(samples),
                )
            openvino.save_model(quantised, files.nncf / f"{graph}.xml", compress_to_fp16=False)
        return {"version": str(nncf.__version__), "images": len(images), "texts": len(texts)}

    def calibration_notes(self, files: ModelFiles) -> dict[str, Any]:
        """What the bundle records of its int8, {} without one."""
        bundle = Bundle.open(files.bundle)
        return dict(bundle.record("int8").notes) if "int8" in bundle.precisions else {}

    def check_tasks(self, files: ModelFiles, threads: int) -> list[dict[str, Any]]:
        """``lrsclip check --data --split val`` of every precision on both backends, as JSON values."""
        from lrsclip_rt.checking import row_from_result
        from lrsclip_rt.task_answers import data_sets_from_folder, inputs_from_sets
        from lrsclip_rt.task_checking import check_on_data

        inputs = inputs_from_sets(data_sets_from_folder(self._data, split="val"))
        backends = ("onnxruntime", "openvino")
        summary = check_on_data(Bundle.open(files.bundle), inputs, backends=backends, threads=threads)
        return [row_from_result(result) for result in summary.results]
