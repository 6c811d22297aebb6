"""Checkpoints to compare on: random ViTs in the published layout, with wide channels or none, and ``mini``.

Trained models have a few channels that are far wider than the others, and 8-bit arithmetic suffers from them;
random weights have none. The ``-wide`` models are given some that change nothing in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrsclip_export.graph_source import SourceGraph
from lrsclip_rt.bundle import Bundle
from lrsclip_train.model import MINI, VIT_B_16, ClipConfig, DualClip

__all__ = ["CONFIGS", "WIDE", "random_state", "state_from_bundle", "widened"]

CONFIGS: Mapping[str, ClipConfig] = {
    "vit-b-16": VIT_B_16,
    "tiny": ClipConfig("tiny", 64, 32, 8, 64, 2, 64, 2),
}
"""Shapes with random weights, by name."""
WIDE = "-wide"
"""What follows the name of a shape for the same with wide channels."""

_FACTOR, _CHANNELS = 30.0, 6
_HEAD_WIDTH = 64
State = dict[str, torch.Tensor]


def random_state(config: ClipConfig, *, seed: int = 0) -> State:
    """Random weights under which images and texts differ enough for a cosine to say something."""
    torch.manual_seed(seed)
    model = DualClip(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "resblocks" in name:
                parameter.mul_(2)
    return model.state_dict()


def widened(state: Mapping[str, torch.Tensor], *, seed: int = 0) -> State:
    """The same function: some channels of each norm in a block times 30, the columns that read them by 30."""
    generator = torch.Generator().manual_seed(seed)
    wide = dict(state)
    readers = {"ln_1": "attn.in_proj_weight", "ln_2": "mlp.c_fc.weight"}
    for name in state:
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        if "resblocks" not in block or norm not in readers or not name.endswith(".weight"):
            continue
        factor = torch.ones_like(state[name])
        factor[torch.randperm(len(factor), generator=generator)[:_CHANNELS]] = _FACTOR
        reader = f"{block}.{readers[norm]}"
        wide[name] = state[name] * factor
        wide[f"{block}.{norm}.bias"] = state[f"{block}.{norm}.bias"] * factor
        wide[reader] = state[reader] / factor
    return wide


def state_from_bundle(path: Path) -> State:
    """The state dict behind the fp32 graphs of the built-in model, whose checkpoint is not shipped."""
    bundle = Bundle.open(path)
    graphs = {tower: SourceGraph(bundle.graph_path(tower, "fp32")) for tower in ("image", "text")}
    rows = graphs["text"].shape("token_embedding.weight")[0]
    state: State = {}
    for name, parameter in DualClip(replace(MINI, token_rows=rows)).state_dict().items():
        if name == "logit_scale":
            # It does not enter an embedding.
            state[name] = parameter
            continue
        graph = graphs["image" if name.startswith("visual.") else "text"]
        state[name] = torch.from_numpy(np.array(_array(graph, name), parameter.numpy().dtype))
    return state


def _array(graph: SourceGraph, name: str) -> NDArray[Any]:
    """One parameter as the state dict holds it; the graphs join, scale and transpose some."""
    if ".in_proj_" in name:
        return _in_projection(graph, name)
    if name == "visual.class_embedding":
        row: NDArray[Any] = graph.array("visual.table")[0]
        return row
    if name == "visual.positional_embedding":
        # Its first row is added to the class token, and the sum is all that the graph holds.
        table = np.array(graph.array("visual.table"))
        table[0] = 0
        return table
    if name.startswith("positional_embedding"):
        return graph.array("positions")
    array = graph.array(name)
    linear = name.endswith(("out_proj.weight", "c_fc.weight", "c_proj.weight"))
    return array.T if linear else array


def _in_projection(graph: SourceGraph, name: str) -> NDArray[Any]:
    base, kind = name.split(".in_proj_")
    parts = []
    for letters in ("qkv", "q", "kv"):
        stored = f"{base}.{letters}.{kind}"
        if not graph.is_constant(stored):
            continue
        scaled = f"{stored}.scaled"
        array = graph.array(scaled if graph.is_constant(scaled) else stored)
        parts.append(np.asarray(array, np.float32).T)
    joined = np.concatenate(parts)
    joined[: len(joined) // 3] *= _HEAD_WIDTH**0.5
    return joined
