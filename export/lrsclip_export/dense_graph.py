"""Patches to embeddings, beside the whole path of the class token; ``dense_recipe`` says why."""

from __future__ import annotations

import numpy as np

from lrsclip_export.dense_recipe import DenseRecipe
from lrsclip_export.graph_builder import GraphBuilder
from lrsclip_export.layers import (
    HEAD_WIDTH,
    ReadParameter,
    TransformerShape,
    in_projection,
    integers,
    layer_norm,
    linear_of,
    projection,
    unit_rows,
)

__all__ = ["dense_rows"]

_NAME = "visual.dense"


def dense_rows(
    g: GraphBuilder,
    classes: str,
    read: ReadParameter,
    shape: TransformerShape,
    recipe: DenseRecipe,
    *,
    patches: int,
) -> str:
    """Embeddings of the patches as the value ``patches`` (N, P, D), unit rows.

    The last block has to be in the graph: its norm, the values of its attention and all its weights are used
    again, so a weight file holds nothing twice.

    Args:
        g: Graph with the whole image tower.
        classes: (N, D) unit class embeddings.
        read: Parameters by name.
        shape: Of the image tower's blocks.
        recipe: What is free in the recipe.
        patches: P.
    """
    block = f"{shape.prefix}resblocks.{shape.layers - 1}"
    base, heads = f"{block}.attn", shape.width // HEAD_WIDTH
    queries = in_projection(g, f"{block}.ln_1.out", read, base, shape.width, 0, 1, f"{_NAME}.q")
    split = g.node("Reshape", (queries, integers(g, [0, 0, heads, HEAD_WIDTH])), f"{_NAME}.q.split")
    q = g.node("Transpose", (split,), f"{_NAME}.q.heads", perm=[0, 2, 1, 3])
    turned = g.node("Transpose", (split,), f"{_NAME}.q.turned", perm=[0, 2, 3, 1])
    # The scale of the logits is in the weight, so here it counts twice.
    scale = g.constant(f"{_NAME}.scale", np.array([HEAD_WIDTH**0.5], dtype=np.float32))
    logits = g.node("MatMul", (g.node("Mul", (q, scale), f"{_NAME}.q.scaled"), turned), f"{_NAME}.logits")
    shares = g.node("Softmax", (logits,), f"{_NAME}.shares", axis=-1)
    mixed = g.node("MatMul", (shares, f"{base}.v.heads"), f"{_NAME}.mixed")
    rows = g.node("Transpose", (mixed,), f"{_NAME}.rows", perm=[0, 2, 1, 3])
    joined = g.node("Reshape", (rows, integers(g, [0, 0, shape.width])), f"{_NAME}.joined")
    attended = linear_of(g, joined, read, f"{base}.out_proj", f"{_NAME}.attended")
    bounds = integers(g, [1]), integers(g, [1 + patches]), integers(g, [1])
    rows = g.node("Slice", (attended, *bounds), f"{_NAME}.patches")
    normed = layer_norm(g, rows, read, "visual.ln_post", f"{_NAME}.ln_post.out")
    projected = projection(g, normed, read, "visual.proj", f"{_NAME}.projected")
    unit = unit_rows(g, projected, f"{_NAME}.unit", prefix=f"{_NAME}.unit")
    share = g.constant(f"{_NAME}.share", np.array([recipe.class_share], dtype=np.float32))
    added = g.node("Mul", (classes, share), f"{_NAME}.class")
    added = g.node("Unsqueeze", (added, integers(g, [1])), f"{_NAME}.class.rows")
    return unit_rows(g, g.node("Add", (unit, added), f"{_NAME}.sum"), "patches", prefix=_NAME)
