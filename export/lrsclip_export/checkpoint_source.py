"""A checkpoint as the source of fp32 graphs: the one part of the export that needs torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsclip_export.dense_recipe import dense_recipe
from lrsclip_export.graph_builder import fits_half
from lrsclip_export.precisions import TOWER_GRAPHS, require_onnx, save_graph
from lrsclip_export.proof import Answers, Inputs, answers_from_graphs, answers_from_torch, prove_fp32
from lrsclip_export.towers import CONTEXT_LENGTH, Parameters, image_graph, text_graph
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.bundle_records import ModelSpec, SourceRecord
from lrsclip_rt.errors import CheckpointError, DependencyError, InputError
from lrsclip_rt.parity import ParityReport
from lrsclip_rt.pixels import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from lrsclip_export.exporting import Provenance
    from lrsclip_train.checkpoints import Checkpoint
    from lrsclip_train.model import ClipConfig

__all__ = ["DEFAULT_TEMPLATES", "CheckpointModel", "checkpoint_model"]

DEFAULT_TEMPLATES = ("a satellite photo of {}.", "a satellite image of {}", "an aerial image of {}")

_HALVES = (0.5, 0.5, 0.5)
# The tables that are folded are stored as float32 where they have to be.
_FOLDED = frozenset({"logit_scale", "positional_embedding", "positional_embedding_res"})


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointModel:
    """A checkpoint with everything that a bundle says about it.

    Attributes:
        checkpoint: Tensors and shapes.
        spec: The model as bundles describe it.
        source: Where it comes from.
        vocabulary: The tokenizer's file.
        store_half: Store what is exactly float16 as float16.
    """

    checkpoint: Checkpoint
    spec: ModelSpec
    source: SourceRecord
    vocabulary: Path
    store_half: bool

    @property
    def notes(self) -> Mapping[str, Any]:
        """What reading the checkpoint had to decide."""
        notes: dict[str, Any] = {"weights_stored_as": "float16" if self.store_half else "float32"}
        return {**notes, "checkpoint": list(self.checkpoint.notes)} if self.checkpoint.notes else notes

    def write_fp32(self, folder: Path, progress: Callable[[float], None]) -> Mapping[str, Path]:
        """Write the four fp32 graphs and their two weight files."""
        parameters, config = Parameters(self.checkpoint.state), self.checkpoint.config
        paths: dict[str, Path] = {}
        for tower, graphs in TOWER_GRAPHS.items():
            with WeightFile(folder / f"{tower}.fp32.weights") as weights:
                for graph in graphs:
                    paths[graph] = folder / f"{graph}.fp32.onnx"
                    save_graph(self._graph(graph, parameters, config, weights), paths[graph])
                    progress(len(paths) / 4)
        return paths

    def prove(
        self, paths: Mapping[str, Path], inputs: Inputs, progress: Callable[[str, float], None]
    ) -> tuple[Answers, ParityReport]:
        """Run torch and the graphs on the same inputs.

        Raises:
            ParityError: If they differ.
        """
        from lrsclip_train.checkpoints import model_from_checkpoint

        model = model_from_checkpoint(self.checkpoint).eval()
        reference = answers_from_torch(
            model, inputs, progress=lambda part: progress("running PyTorch", 0.5 * part)
        )
        answers = answers_from_graphs(
            paths, inputs, progress=lambda part: progress("running fp32", 0.5 + 0.5 * part)
        )
        return answers, prove_fp32(reference, answers)

    def _graph(self, name: str, parameters: Parameters, config: ClipConfig, weights: WeightFile) -> Any:
        half = self.store_half
        if name in TOWER_GRAPHS["image"]:
            return image_graph(parameters, config, weights, dense=name == "dense", store_half=half)
        return text_graph(parameters, config, weights, fixed=name == "text-248", store_half=half)


def checkpoint_model(
    path: Path,
    *,
    name: str | None,
    templates: Sequence[str] | None,
    provenance: Provenance,
    store_half: bool,
) -> CheckpointModel:
    """Read a checkpoint file.

    Raises:
        CheckpointError: If it cannot be read, or its texts are not 248 tokens long.
        DependencyError: If torch or onnx is not installed.
        InputError: If ``store_half`` would change a weight, or a template has no placeholder.
    """
    require_onnx()
    try:
        from lrsclip_train.checkpoints import read_checkpoint
    except ImportError as error:
        if error.name != "torch":
            raise
        raise DependencyError.of("torch", extra="export") from error
    from lrsclip_rt.tokenizer import Tokenizer

    chosen = DEFAULT_TEMPLATES if templates is None else tuple(templates)
    for template in chosen:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r} must hold the placeholder {{}} once")
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    if config.context_length != CONTEXT_LENGTH:
        raise CheckpointError(
            f"{path} has {config.context_length} text positions, a bundle holds {CONTEXT_LENGTH}: "
            "77 stretched with keep 20 and ratio 4"
        )
    if store_half:
        _refuse_rounding(checkpoint)
    tokenizer = Tokenizer()
    spec = ModelSpec(
        name=name or path.stem,
        architecture=config.name,
        embed_dim=config.embed_dim,
        image_size=config.image_size,
        mean=CLIP_MEAN if config.stem == "none" else _HALVES,
        std=CLIP_STD if config.stem == "none" else _HALVES,
        logit_scale=math.exp(float(checkpoint.state["logit_scale"])),
        tokenizer_sha256=tokenizer.sha256,
        patch_grid=(config.grid, config.grid),
        templates=chosen,
        context_length=config.context_length,
        kps_keep=config.keep,
        kps_ratio=config.ratio,
        dense_recipe=dense_recipe(config).name,
    )
    source = SourceRecord(
        checkpoint_sha256=checkpoint.sha256,
        layout=checkpoint.layout,
        how_made=provenance.how_made or f"lrsclip export {path.name}",
        licence=provenance.licence,
        training_data=provenance.training_data,
    )
    return CheckpointModel(checkpoint, spec, source, tokenizer.path, store_half)


def _refuse_rounding(checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.state.items():
        if name in _FOLDED or not tensor.is_floating_point():
            continue
        array = tensor.numpy()
        if not fits_half(array):
            with np.errstate(over="ignore"):
                changed = int((array.astype(np.float16).astype(np.float32) != array).sum())
            raise InputError(
                f"storing float16 would change {changed} of {array.size} numbers of {name}. Round the "
                "checkpoint to float16 first, or store float32"
            )
