"""The four fp32 graphs of a bundle, from the parameters of a checkpoint.

``image`` and ``dense`` share ``image.<precision>.weights``; ``text`` and ``text-248`` share
``text.<precision>.weights``. Parameters go by their OpenAI names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.dense_graph import dense_rows
from lrsclip_export.dense_recipe import dense_recipe
from lrsclip_export.graph_builder import GraphBuilder
from lrsclip_export.layers import (
    MASKED,
    ReadParameter,
    TransformerShape,
    integers,
    layer_norm,
    projection,
    transformer,
    unit_rows,
)
from lrsclip_export.stem_graph import stem_features
from lrsclip_export.weight_file import WeightFile

if TYPE_CHECKING:
    from lrsclip_train.model import ClipConfig

__all__ = ["CONTEXT_LENGTH", "Parameters", "image_graph", "text_graph"]

CONTEXT_LENGTH = 248


@dataclass(frozen=True, slots=True)
class Parameters:
    """A state dict seen as NumPy arrays, converted one tensor at a time.

    Attributes:
        state: Torch tensors by OpenAI name.
    """

    state: Any

    def read(self, name: str) -> NDArray[np.float32]:
        """A parameter as float32."""
        array: NDArray[np.float32] = self.state[name].detach().cpu().float().numpy()
        return array

    def integers(self, name: str) -> NDArray[np.int32]:
        """An integer buffer as int32."""
        array: NDArray[Any] = self.state[name].detach().cpu().numpy()
        return array.astype(np.int32)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter, ``()`` where there is none."""
        return tuple(self.state[name].shape) if name in self.state else ()


def image_graph(
    parameters: Parameters, config: ClipConfig, weights: WeightFile, *, dense: bool, store_half: bool = False
) -> Any:
    """``pixels`` (N, 3, S, S) -> ``embedding`` (N, D), or ``patches`` (N, P, D) where ``dense``.

    The dense graph holds all of the other one: its patches take a share of the class embedding, and what
    8-bit precisions do to the values and weights of one is right for both.
    """
    g = GraphBuilder("dense" if dense else "image", weights, store_half=store_half)
    read, size, width = parameters.read, config.image_size, config.image_width
    patches = config.grid**2
    x = g.add_input("pixels", np.float32, ("N", 3, size, size))
    if config.stem == "mobilenetv2":
        x = stem_features(g, x, read, parameters.shape_of)
    filters = g.weight("visual.conv1.weight", lambda: read("visual.conv1.weight"))
    edge = [config.patch_size, config.patch_size]
    x = g.node("Conv", (x, filters), "visual.conv1.out", kernel_shape=edge, strides=edge)
    x = g.node("Reshape", (x, integers(g, [0, width, patches])), "visual.patches.columns")
    x = g.node("Transpose", (x,), "visual.patches", perm=[0, 2, 1])
    # A zero row in front, then one table to which the class token is already added: no shape arithmetic.
    x = g.node("Pad", (x, integers(g, [0, 1, 0, 0, 0, 0])), "visual.padded", mode="constant")
    x = g.node("Add", (x, g.weight("visual.table", lambda: _image_table(read))), "visual.tokens")
    x = layer_norm(g, x, read, "visual.ln_pre", "visual.ln_pre.out")
    blocks = TransformerShape("visual.transformer.", width, config.image_layers)
    x = transformer(g, x, read, blocks, select=lambda value: _rows(g, value, 0, 1))
    x = layer_norm(g, x, read, "visual.ln_post", "visual.ln_post.out")
    x = g.node("Reshape", (x, integers(g, [0, width])), "visual.pooled")
    x = unit_rows(g, projection(g, x, read, "visual.proj", "visual.projected"), "embedding")
    if dense:
        rows = dense_rows(g, x, read, blocks, dense_recipe(config), patches=patches)
        g.add_output(rows, np.float32, ("N", patches, config.embed_dim))
    else:
        g.add_output(x, np.float32, ("N", config.embed_dim))
    return g.model()


def text_graph(
    parameters: Parameters, config: ClipConfig, weights: WeightFile, *, fixed: bool, store_half: bool = False
) -> Any:
    """``tokens`` int32 (N, T) and ``eot`` int32 (N,) -> ``embedding`` (N, D); T is 248 where ``fixed``."""
    g = GraphBuilder("text-248" if fixed else "text", weights, store_half=store_half)
    read, width = parameters.read, config.text_width
    tokens = g.add_input("tokens", np.int32, ("N", CONTEXT_LENGTH if fixed else "T"))
    eot = g.add_input("eot", np.int32, ("N",))
    ids = tokens
    if parameters.shape_of("token_map"):
        table = g.weight("token_map", lambda: parameters.integers("token_map"))
        ids = g.node("Gather", (table, tokens), "token_rows", axis=0)
    embeddings = g.weight("token_embedding.weight", lambda: read("token_embedding.weight"))
    x = g.node("Gather", (embeddings, ids), "token_embedding.out", axis=0)
    positions = g.weight("positions", lambda: _text_table(parameters, config))
    mask = g.weight("causal_mask", _causal_mask)
    if not fixed:
        length = _length(g, tokens)
        positions = _first(g, positions, length, [0], "positions.used")
        lengths = g.node("Concat", (length, length), "length.twice", axis=0)
        mask = _first(g, mask, lengths, [0, 1], "causal_mask.used")
    x = g.node("Add", (x, positions), "tokens_and_positions")
    row = g.node("Cast", (eot,), "eot.int64", to=7)
    row = g.node("Unsqueeze", (row, integers(g, [1])), "eot.index")
    x = transformer(
        g,
        x,
        read,
        TransformerShape("transformer.", width, config.text_layers),
        select=lambda value: _text_row(g, value, row),
        mask=mask,
        select_mask=lambda value: _mask_row(g, value, eot),
    )
    x = g.node("Reshape", (x, integers(g, [0, width])), "text.pooled")
    x = layer_norm(g, x, read, "ln_final", "ln_final.out")
    x = projection(g, x, read, "text_projection", "text.projected")
    g.add_output(unit_rows(g, x, "embedding"), np.float32, ("N", config.embed_dim))
    return g.model()


def _rows(g: GraphBuilder, x: str, start: int, stop: int) -> str:
    bounds = integers(g, [start]), integers(g, [stop]), integers(g, [1])
    return g.node("Slice", (x, *bounds), "visual.selected")


def _text_row(g: GraphBuilder, x: str, row: str) -> str:
    """(N, T, C) and (N, 1) int64 -> (N, 1, C), of each text the row of its end."""
    end = g.node("GatherND", (x, row), "text.end", batch_dims=1)
    return g.node("Unsqueeze", (end, integers(g, [1])), "text.selected")


def _mask_row(g: GraphBuilder, mask: str, eot: str) -> str:
    """(T, T) and (N,) int32 -> (N, 1, 1, T)."""
    rows = g.node("Gather", (mask, eot), "causal_mask.end", axis=0)
    return g.node("Unsqueeze", (rows, integers(g, [1, 2])), "causal_mask.selected")


def _length(g: GraphBuilder, tokens: str) -> str:
    """T as a (1,) int64 value."""
    shape = g.node("Shape", (tokens,), "tokens.shape")
    return g.node("Slice", (shape, integers(g, [1]), integers(g, [2]), integers(g, [0])), "length")


def _first(g: GraphBuilder, x: str, lengths: str, axes: list[int], output: str) -> str:
    """The first ``lengths`` rows of ``x`` along ``axes``."""
    zeros = integers(g, [0] * len(axes))
    return g.node("Slice", (x, zeros, lengths, integers(g, axes)), output)


def _image_table(read: ReadParameter) -> NDArray[np.float32]:
    """(1 + P, C): positions, with the class token added to the first."""
    table: NDArray[np.float32] = read("visual.positional_embedding").copy()
    table[0] += read("visual.class_embedding")
    return table


def _text_table(parameters: Parameters, config: ClipConfig) -> NDArray[np.float32]:
    """(248, C): the frozen table's first rows and the trained table's others, or the only table."""
    table = parameters.read("positional_embedding")
    if parameters.shape_of("positional_embedding_res"):
        trained = parameters.read("positional_embedding_res")
        table = np.concatenate([table[: config.keep], trained[config.keep :]])
    return table


def _causal_mask() -> NDArray[np.float32]:
    """(248, 248): 0 where a token may look, :data:`MASKED` at what comes later."""
    later = np.triu(np.ones((CONTEXT_LENGTH, CONTEXT_LENGTH), dtype=bool), k=1)
    return np.where(later, MASKED, 0.0).astype(np.float32)
