"""fp32 graphs that answer as before, with a few channels of every LayerNormalization thirty times as wide.

Trained models have such channels and random ones do not, so that a recipe which only works without them
would pass every test on random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrsclip_export.graph_builder import GraphBuilder
from lrsclip_export.graph_source import SourceGraph, attributes_of, dimensions_of, numpy_type
from lrsclip_export.precisions import TOWER_GRAPHS, save_graph
from lrsclip_export.weight_file import WeightFile

FACTOR, CHANNELS = 30.0, 6


def widened_graphs(fp32: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The four graphs again, in ``folder``: scale and bias of a norm times 30, the rows behind it by 30."""
    written: dict[str, Path] = {}
    for tower, graphs in TOWER_GRAPHS.items():
        with WeightFile(folder / f"{tower}.fp32.weights") as weights:
            for graph in graphs:
                source = SourceGraph(fp32[graph])
                written[graph] = folder / f"{graph}.fp32.onnx"
                save_graph(copied_graph(source, weights, factors_of(source)), written[graph])
    return written


def factors_of(source: SourceGraph) -> dict[str, Any]:
    """What each constant is multiplied by; the same for all graphs of a tower."""
    factors: dict[str, Any] = {}
    rng = np.random.default_rng(3)
    for node in source.nodes():
        if node.op_type != "LayerNormalization" or "resblocks" not in node.input[1]:
            continue
        _, scale, bias = node.input
        if scale not in factors:
            wide = np.ones(source.shape(scale), dtype=np.float32)
            wide[rng.permutation(len(wide))[:CHANNELS]] = FACTOR
            factors[scale] = factors[bias] = wide
        for user in source.nodes():
            if user.op_type == "MatMul" and user.input[0] == node.output[0]:
                factors[user.input[1]] = 1 / factors[scale][:, None]
    return factors


def copied_graph(source: SourceGraph, weights: WeightFile, factors: Mapping[str, Any]) -> Any:
    """The graph with its constants multiplied."""
    g = GraphBuilder(source.name, weights)

    def value(name: str) -> str:
        if not name or not source.is_constant(name):
            return name
        if name not in factors:
            return source.copy_constant(g, name)
        return g.weight(name, lambda: np.float32(source.array(name) * factors[name]))

    graph = source.model.graph
    for entry in graph.input:
        g.add_input(entry.name, numpy_type(entry.type.tensor_type.elem_type).type, dimensions_of(entry))
    for node in source.nodes():
        g.split(node.op_type, [value(name) for name in node.input], node.output, **attributes_of(node))
    for entry in graph.output:
        g.add_output(entry.name, np.float32, dimensions_of(entry))
    return g.model()
