"""The products of a graph that 8-bit precisions quantise, and what lies before each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrsclip_export.graph_source import SourceGraph, attributes_of
from lrsclip_rt.errors import BundleError

__all__ = ["GeluInput", "NormInput", "Product", "ValueInput", "products_of"]


@dataclass(frozen=True, slots=True)
class NormInput:
    """``x`` is a LayerNormalization: its ``scale`` and ``bias`` constants; several may share them."""

    scale: str
    bias: str


@dataclass(frozen=True, slots=True)
class ValueInput:
    """``x`` mixes attention values over tokens; channels stay apart.

    Attributes:
        weight: The weight that makes the values.
        bias: Its bias.
        first: The first of its columns that are values; all later ones are too.
    """

    weight: str
    bias: str
    first: int


@dataclass(frozen=True, slots=True)
class GeluInput:
    """``x`` is ``h * sigmoid(slope * h)``.

    Attributes:
        weight: The weight that makes ``h``.
        bias: Its bias.
        steep: Output of the node that multiplies ``h`` by the slope.
    """

    weight: str
    bias: str
    steep: str


@dataclass(frozen=True, slots=True)
class Product:
    """``x @ weight``, then ``+ bias``.

    Attributes:
        name: Output of the MatMul.
        x: Its first input.
        weight: Its second input, a (C, C') constant.
        bias: A (C',) constant.
        sum: Output of the addition.
        before: What makes ``x``, where a scale of its channels can be moved there.
    """

    name: str
    x: str
    weight: str
    bias: str
    sum: str
    before: NormInput | ValueInput | GeluInput


def products_of(source: SourceGraph) -> tuple[Product, ...]:
    """The products of every block: queries, keys and values, attention output, both of the MLP.

    The final projection has no bias and is not among them, nor are products of two activations.

    Raises:
        BundleError: If the graph holds a biased product whose input is none of the known ones.
    """
    makers = {output: node for node in source.nodes() for output in node.output}
    sums = {
        node.input[0]: node
        for node in source.nodes()
        if node.op_type == "Add" and source.is_constant(node.input[1]) and node.input[0] in makers
    }
    found: list[Product] = []
    for node in source.nodes():
        name = node.output[0]
        if node.op_type != "MatMul" or not source.is_constant(node.input[1]) or name not in sums:
            continue
        after = sums[name]
        before = _before(source, makers, node.input[0])
        if before is None:
            raise BundleError(f"{source.path} has an unknown layer before {name}. Export the bundle again")
        found.append(Product(name, node.input[0], node.input[1], after.input[1], after.output[0], before))
    if not found:
        raise BundleError(f"{source.path} has no products to quantise. Export the bundle again")
    return tuple(found)


def _before(source: SourceGraph, makers: dict[str, Any], x: str) -> NormInput | ValueInput | GeluInput | None:
    node = makers.get(x)
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        return NormInput(node.input[1], node.input[2])
    if node.op_type == "Reshape":
        return _values(source, makers, node)
    if node.op_type == "Mul":
        return _gelu(source, makers, node)
    return None


def _values(source: SourceGraph, makers: dict[str, Any], reshape: Any) -> ValueInput | None:
    """Reshape <- Transpose <- MatMul(shares, Transpose <- Reshape <- last part of Split <- Add <- MatMul)."""
    mixed = _up(makers, reshape.input[0], "Transpose", "MatMul")
    split = None if mixed is None else _up(makers, mixed.input[1], "Transpose", "Reshape", "Split")
    linear = None if split is None else _linear(source, makers, split.input[0])
    if split is None or linear is None or attributes_of(split).get("axis") != -1:
        return None
    weight, bias = linear
    columns = source.shape(weight)[1]
    return ValueInput(weight, bias, columns - columns // len(split.output))


def _gelu(source: SourceGraph, makers: dict[str, Any], product: Any) -> GeluInput | None:
    h, gate = product.input
    steep = _up(makers, gate, "Sigmoid", "Mul")
    linear = _linear(source, makers, h)
    if steep is None or linear is None or steep.input[0] != h or not source.is_constant(steep.input[1]):
        return None
    return GeluInput(*linear, steep=steep.output[0])


def _linear(source: SourceGraph, makers: dict[str, Any], value: str) -> tuple[str, str] | None:
    """Weight and bias of Add(MatMul(x, weight), bias)."""
    add = makers.get(value)
    if add is None or add.op_type != "Add" or not source.is_constant(add.input[1]):
        return None
    matmul = makers.get(add.input[0])
    if matmul is None or matmul.op_type != "MatMul" or not source.is_constant(matmul.input[1]):
        return None
    return matmul.input[1], add.input[1]


def _up(makers: dict[str, Any], value: str, *operators: str) -> Any:
    """The node that is reached from ``value`` through nodes of these operators, or None."""
    node = None
    for operator in operators:
        node = makers.get(value if node is None else node.input[0])
        if node is None or node.op_type != operator:
            return None
    return node
