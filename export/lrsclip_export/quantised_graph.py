"""Q/DQ pairs around the products of a typed fp16 graph, for TensorRT and OpenVINO.

Both inputs of a product are quantised, the weight in the file and the activation by nodes in front of it;
zero points are zero. Everything else stays as fp16 has it. float16 scales need opset 19.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.graph_builder import GraphBuilder, np_to_onnx
from lrsclip_export.graph_source import SourceGraph, attributes_of, dimensions_of, numpy_type
from lrsclip_export.number_formats import NumberFormat, half_scale
from lrsclip_export.products import Product
from lrsclip_export.weight_file import WeightFile

__all__ = ["QDQ_IR_VERSION", "QDQ_OPSET", "QuantisedProduct", "quantised_graph"]

QDQ_OPSET = 19
QDQ_IR_VERSION = 9

_INPUT_CAST = ".as_float16"


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedProduct:
    """How one product of one graph is quantised.

    Attributes:
        product: Where it is.
        reach: The range of its input is ``[-reach, reach]``.
        correction: (C',) added to its bias, or None.
    """

    product: Product
    reach: float
    correction: NDArray[np.float32] | None


def quantised_graph(
    half: SourceGraph,
    exact: SourceGraph,
    weights: WeightFile,
    products: Mapping[str, QuantisedProduct],
    number_format: NumberFormat,
) -> Any:
    """Insert the pairs.

    Args:
        half: Typed fp16 graph.
        exact: The fp32 graph it was made from, for the weights.
        weights: Receives all weights; graphs of one tower share it.
        products: By the output of the product; others stay float16.
        number_format: Of the quantised numbers.

    Returns:
        The ``ModelProto``; float inputs are float32.
    """
    return _Converter(half, exact, weights, products, number_format).convert()


class _Converter:
    def __init__(
        self,
        half: SourceGraph,
        exact: SourceGraph,
        weights: WeightFile,
        products: Mapping[str, QuantisedProduct],
        number_format: NumberFormat,
    ) -> None:
        self.half, self.exact = half, exact
        self.products, self.format = products, number_format
        self.sums = {entry.product.sum: entry for entry in products.values() if entry.correction is not None}
        self.g = GraphBuilder(half.name, weights)
        self.renamed: dict[str, str] = {}
        self.pairs: dict[str, str] = {}

    def convert(self) -> Any:
        for value in self.half.model.graph.input:
            self._input(value)
        for node in self.half.nodes():
            self._copy(node)
        for value in self.half.model.graph.output:
            self.g.add_output(value.name, np.float32, dimensions_of(value))
        model = self.g.model()
        model.opset_import[0].version, model.ir_version = QDQ_OPSET, QDQ_IR_VERSION
        self._type_float8(model)
        return model

    def _input(self, value: Any) -> None:
        dtype = numpy_type(value.type.tensor_type.elem_type).type
        shape = dimensions_of(value)
        if dtype is not np.float16:
            self.g.add_input(value.name, dtype, shape)
            return
        self.g.add_input(value.name, np.float32, shape)
        cast = self.g.node("Cast", (value.name,), f"{value.name}{_INPUT_CAST}", to=np_to_onnx(np.float16))
        self.renamed[value.name] = cast

    def _copy(self, node: Any) -> None:
        attributes, output = attributes_of(node), node.output[0]
        if output in self.products:
            x = self._value(node.input[0])
            inputs = [self._activation(x, self.products[output]), self._weight(node.input[1])]
        elif output in self.sums:
            inputs = [self._value(node.input[0]), self._bias(node.input[1], self.sums[output])]
        else:
            inputs = [self._value(name) for name in node.input]
        if node.op_type == "ReduceSumSquare":
            # An attribute until opset 17, an input from 18 on.
            axes = np.asarray(attributes.pop("axes"), dtype=np.int64)
            inputs.append(self.g.constant(f"{output}.axes", axes))
        self.g.split(node.op_type, inputs, node.output, **attributes)

    def _value(self, name: str) -> str:
        if name and self.half.is_constant(name):
            return self.half.copy_constant(self.g, name)
        return self.renamed.get(name, name)

    def _activation(self, x: str, entry: QuantisedProduct) -> str:
        if x not in self.pairs:
            scale = half_scale(entry.reach / self.format.largest).astype(np.float16)
            inputs = (self.g.constant(f"{x}.scale", scale), self._zero())
            quantised = self.g.node("QuantizeLinear", (x, *inputs), f"{x}.q")
            self.pairs[x] = self.g.node("DequantizeLinear", (quantised, *inputs), f"{x}.dq")
        return self.pairs[x]

    def _weight(self, value: str) -> str:
        """The dequantised weight: its bytes and scales are in the weight file."""
        g, names = self.g, (f"{value}.{self.format.name}", f"{value}.{self.format.name}_scale")
        if names[0] not in g.weights:
            weight = self.exact.array(value).astype(np.float32)
            scale = self.format.weight_scale(weight)
            g.weights.add(names[0], self.format.stored(weight, scale))
            g.weights.add(names[1], scale.astype(np.float16))
        output = f"{value}.dequantised"
        attributes = {"axis": 1} if self.format.by_column else {}
        return g.node("DequantizeLinear", [g.stored(name) for name in names], output, **attributes)

    def _bias(self, value: str, entry: QuantisedProduct) -> str:
        """The corrected bias. Each graph has its own: their last blocks see other tokens."""
        correction = entry.correction
        assert correction is not None
        name = f"{value}.corrected.{self.half.name}"
        return self.g.weight(
            name, lambda: (self.exact.array(value).astype(np.float32) + correction).astype(np.float16)
        )

    def _zero(self) -> str:
        return self.g.constant("zero_point", np.zeros((), np.uint8 if self.format.name == "fp8" else np.int8))

    def _type_float8(self, model: Any) -> None:
        """NumPy has no float8: its bytes were stored as uint8, and get their type here."""
        import onnx

        for tensor in model.graph.initializer:
            if self.format.name == "fp8" and tensor.data_type == onnx.TensorProto.UINT8:
                tensor.data_type = onnx.TensorProto.FLOAT8E4M3FN
