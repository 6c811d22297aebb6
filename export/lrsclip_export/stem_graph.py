"""The MobileNetV2 stem of the built-in model as graph nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lrsclip_export.graph_builder import GraphBuilder
from lrsclip_export.layers import ReadParameter

__all__ = ["stem_features"]


def stem_features(
    g: GraphBuilder, pixels: str, read: ReadParameter, shape_of: Callable[[str], tuple[int, ...]]
) -> str:
    """(N, 3, S, S) in [-1, 1] -> (N, channels, S / 32, S / 32).

    Block sizes, strides and shortcuts follow from the parameters and the fixed table of strides.

    Args:
        g: Graph.
        pixels: Normalised pixels.
        read: Parameters by name.
        shape_of: Shape of a parameter by name; ``()`` where there is none.
    """
    prefix = "visual.stem"
    x = _convolution(g, pixels, read, shape_of, f"{prefix}.first", stride=2, clip=True)
    for index, stride in enumerate(_strides()):
        block, before = f"{prefix}.blocks.{index}", x
        if shape_of(f"{block}.expand.weight"):
            x = _convolution(g, x, read, shape_of, f"{block}.expand", clip=True)
        x = _convolution(g, x, read, shape_of, f"{block}.depthwise", stride=stride, clip=True)
        x = _convolution(g, x, read, shape_of, f"{block}.project", clip=False)
        if stride == 1 and _channels_in(shape_of, block) == shape_of(f"{block}.project.weight")[0]:
            x = g.node("Add", (before, x), f"{block}.sum")
    return _convolution(g, x, read, shape_of, f"{prefix}.last", clip=True)


def _strides() -> list[int]:
    # arXiv 1801.04381, table 2: (blocks, stride of the first) of each of the seven stages.
    stages = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))
    return [stride if index == 0 else 1 for blocks, stride in stages for index in range(blocks)]


def _channels_in(shape_of: Callable[[str], tuple[int, ...]], block: str) -> int:
    expand = shape_of(f"{block}.expand.weight")
    return expand[1] if expand else shape_of(f"{block}.depthwise.weight")[0]


def _convolution(
    g: GraphBuilder,
    x: str,
    read: ReadParameter,
    shape_of: Callable[[str], tuple[int, ...]],
    prefix: str,
    *,
    stride: int = 1,
    clip: bool,
) -> str:
    """A convolution padded as TensorFlow's SAME does, then ReLU6 where ``clip``."""
    channels_out, per_group, kernel, _ = shape_of(f"{prefix}.weight")
    # Depthwise where a filter sees one channel; the RGB input never has a single one.
    groups = channels_out if per_group == 1 else 1
    # SAME: a stride of two on an even size pads the right and the bottom alone.
    before = kernel // 2 if stride == 1 else 0
    after = kernel // 2
    out = g.node(
        "Conv",
        (
            x,
            g.weight(f"{prefix}.weight", lambda: read(f"{prefix}.weight")),
            g.weight(f"{prefix}.bias", lambda: read(f"{prefix}.bias")),
        ),
        f"{prefix}.out",
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[before, before, after, after],
        group=groups,
    )
    if not clip:
        return out
    low, high = g.constant("relu6.low", np.float32(0)), g.constant("relu6.high", np.float32(6))
    return g.node("Clip", (out, low, high), f"{prefix}.relu6")
