"""8-bit products for ONNX Runtime on CPUs, from an fp32 graph.

Weights are symmetric int8 with one scale a column; activations are measured and quantised to uint8
while the graph runs. ONNX Runtime fuses the nodes written here into its 8-bit kernels, and its ``QAttention``
takes a block's product for queries, keys and values together with the attention behind it: fifteen
nodes in one, with the attention itself in float. The token table is int8 with one scale a row. Everything
else stays float: convolutions, norms, the final projection (what is large of it stored as float16).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.attention_blocks import AttentionBlock, attention_blocks
from lrsclip_export.graph_builder import GraphBuilder, np_to_onnx
from lrsclip_export.graph_source import SourceGraph, attributes_of, dimensions_of, numpy_type
from lrsclip_export.weight_file import WeightFile

__all__ = ["int8_cpu_graph", "symmetric_int8"]

_VENDOR = "com.microsoft"


def symmetric_int8(array: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a matrix with one scale for each index along the other axis.

    Args:
        array: (R, C).
        axis: The axis over which numbers share a scale.

    Returns:
        int8 of the same shape in [-127, 127], and scales that broadcast to it: (1, C) or (R, 1).

    Example:
        >>> symmetric_int8(np.float32([[1, 4], [-2, 0]]), axis=1)[0].tolist()
        [[32, 127], [-127, 0]]
    """
    largest = np.abs(array).max(axis=axis, keepdims=True)
    # Zeros have no scale of their own, and any will do; a subnormal one would divide badly.
    usable = largest >= 127 * np.finfo(np.float32).tiny
    scale = np.where(usable, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale


def int8_cpu_graph(source: SourceGraph, weights: WeightFile, *, floats: Collection[str] = ()) -> Any:
    """Convert a graph.

    Args:
        source: fp32 graph.
        weights: Receives the weights; graphs of one tower share it.
        floats: Outputs of products that stay float.

    Returns:
        The ``ModelProto``; inputs and outputs are those of ``source``.
    """
    return _Int8Converter(source, weights, floats).convert()


class _Int8Converter:
    def __init__(self, source: SourceGraph, weights: WeightFile, floats: Collection[str]) -> None:
        self.source = source
        self.floats = floats
        self.g = GraphBuilder(source.name, weights, store_half=True)
        nodes = source.nodes()
        self.blocks = {
            block.product: block for block in attention_blocks(source) if block.product not in floats
        }
        inside = frozenset().union(*(block.inside for block in self.blocks.values()))
        self.nodes = _needed(
            [node for node in nodes if node.output[0] in self.blocks or node.output[0] not in inside],
            [value.name for value in source.model.graph.output],
            {block.joined: block.product for block in self.blocks.values()},
        )
        self.normed = {name for node in nodes if node.op_type == "ReduceSumSquare" for name in node.input}
        self.token_ids = _values_from_tokens(nodes, source)
        self.quantised: dict[str, tuple[str, ...]] = {}

    def convert(self) -> Any:
        graph = self.source.model.graph
        for value in graph.input:
            dtype = numpy_type(value.type.tensor_type.elem_type).type
            self.g.add_input(value.name, dtype, dimensions_of(value))
        for node in self.nodes:
            if node.output[0] in self.blocks:
                self._attention(node, self.blocks[node.output[0]])
            elif self._is_product(node):
                self._product(node)
            elif self._is_embedding(node):
                self._embedding(node)
            else:
                inputs = [self._input(node, name) for name in node.input]
                self.g.split(node.op_type, inputs, node.output, **attributes_of(node))
        for value in graph.output:
            self.g.add_output(value.name, np.float32, dimensions_of(value))
        return self._with_vendor_domain(self.g.model())

    def _with_vendor_domain(self, model: Any) -> Any:
        import onnx

        if self.blocks:
            model.opset_import.append(onnx.helper.make_opsetid(_VENDOR, 1))
        return model

    def _is_product(self, node: Any) -> bool:
        """A product with a weight that is not the final projection, whose result is normed."""
        return (
            node.op_type == "MatMul"
            and self.source.is_constant(node.input[1])
            and node.output[0] not in self.normed
            and node.output[0] not in self.floats
        )

    def _is_embedding(self, node: Any) -> bool:
        return (
            node.op_type == "Gather"
            and self.source.is_constant(node.input[0])
            and node.input[1] in self.token_ids
            and self.source.dtype(node.input[0]) == np.float32
        )

    def _product(self, node: Any) -> None:
        """Compute x @ W as int32 (x - x0) @ W8, scaled back; the order of nodes is what the runtime fuses."""
        g, output = self.g, node.output[0]
        x, x_scale, x_zero = self._quantised(node.input[0])
        weight, scale = self._int8_weight(node.input[1], axis=0)
        total = g.node("MatMulInteger", (x, weight, x_zero), f"{output}.int32")
        total = g.node("Cast", (total,), f"{output}.unscaled", to=np_to_onnx(np.float32))
        scales = g.node("Mul", (x_scale, scale), f"{output}.scale")
        g.node("Mul", (total, scales), output)

    def _attention(self, node: Any, block: AttentionBlock) -> None:
        """The operator divides its logits by sqrt(head_dim), which here is in the weight already."""
        x, x_scale, x_zero = self._quantised(node.input[0])
        factor = np.ones(3 * block.heads * block.head_dim, np.float32)
        factor[: block.heads * block.head_dim] = np.sqrt(block.head_dim)
        weight, scale = self._int8_weight(node.input[1], axis=0, factor=factor)
        bias = f"{block.bias}.attention"
        if bias not in self.g.weights:
            self.g.weights.add(bias, self.source.array(block.bias).astype(np.float32) * factor)
        inputs = (x, weight, self.g.stored(bias), x_scale, scale, "", x_zero)
        options = {"num_heads": block.heads, "unidirectional": int(block.causal)}
        self.g.node("QAttention", inputs, block.joined, domain=_VENDOR, **options)

    def _embedding(self, node: Any) -> None:
        g, output = self.g, node.output[0]
        rows, scale = self._int8_weight(node.input[0], axis=1)
        picked = g.node("Gather", (rows, node.input[1]), f"{output}.int8", axis=0)
        picked = g.node("Cast", (picked,), f"{output}.unscaled", to=np_to_onnx(np.float32))
        scales = g.node("Gather", (scale, node.input[1]), f"{output}.scale", axis=0)
        g.node("Mul", (picked, scales), output)

    def _quantised(self, x: str) -> tuple[str, ...]:
        """uint8 numbers, scale and zero point of ``x``, made once for all products that read it."""
        if x not in self.quantised:
            names = (f"{x}.uint8", f"{x}.scale", f"{x}.zero")
            self.quantised[x] = self.g.split("DynamicQuantizeLinear", (x,), names)
        return self.quantised[x]

    def _int8_weight(
        self, value: str, *, axis: int, factor: NDArray[np.float32] | None = None
    ) -> tuple[str, str]:
        """Numbers and scales of a weight; with ``factor`` the scales of its columns are multiplied by it."""
        weights = self.g.weights
        names = (f"{value}.int8", f"{value}.int8_scale" + ("" if factor is None else ".attention"))
        if not all(name in weights for name in names):
            numbers, scale = symmetric_int8(self.source.array(value).astype(np.float32), axis=axis)
            scale = scale.ravel() if axis == 0 else scale
            for name, array in zip(
                names, (numbers, scale if factor is None else scale * factor), strict=True
            ):
                if name not in weights:
                    weights.add(name, array)
        return self.g.stored(names[0]), self.g.stored(names[1])

    def _input(self, node: Any, value: str) -> str:
        if not value or not self.source.is_constant(value):
            return value
        if node.op_type not in {"Conv", "MatMul"} or len(self.source.shape(value)) < 2:
            return self.source.copy_constant(self.g, value)
        return self.g.weight(value, lambda: _rounded_to_half(self.source.array(value)))


def _needed(nodes: list[Any], outputs: list[str], replaced: Mapping[str, str]) -> list[Any]:
    """The nodes that the outputs depend on; ``replaced`` names the node that now makes a value."""
    needed = {replaced.get(name, name) for name in outputs}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(replaced.get(name, name) for name in node.input)
    return kept[::-1]


def _rounded_to_half(array: NDArray[Any]) -> NDArray[np.float32]:
    """Beside 8-bit weights the rounding of the float ones to float16 is nothing, and half the bytes."""
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float16).astype(np.float32)
    return rounded if np.isfinite(rounded).all() else array.astype(np.float32)


def _values_from_tokens(nodes: list[Any], source: SourceGraph) -> set[str]:
    """The input ``tokens`` and what integer tables make of it."""
    values = {"tokens"}
    for node in nodes:
        if node.op_type != "Gather" or node.input[1] not in values:
            continue
        if source.is_constant(node.input[0]) and source.dtype(node.input[0]).kind == "i":
            values.add(node.output[0])
    return values
