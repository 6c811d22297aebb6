"""Typed fp16 from an fp32 graph, without torch.

Every weight is float16 and every multiplication runs in float16; LayerNormalization and the L2 norm
keep float32, with casts around them, because their sums of squares overflow float16. The graph is
meant for strongly typed TensorRT networks, so no node mixes types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.graph_builder import GraphBuilder, np_to_onnx
from lrsclip_export.graph_source import SourceGraph, attributes_of, dimensions_of, numpy_type
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.errors import BundleError, ParityError

__all__ = ["half_graph"]

_SINGLE = frozenset({"LayerNormalization", "ReduceSumSquare", "Sqrt", "Max", "Div"})
_HALF = frozenset({"Add", "Clip", "Conv", "MatMul", "Mul", "Sigmoid", "Softmax"})
# These only move numbers: they keep the type of what they move.
_MOVING = frozenset(
    {"Concat", "Gather", "GatherND", "Pad", "Reshape", "Shape", "Slice", "Split", "Transpose", "Unsqueeze"}
)
# Inputs of the above that are bounds, indices or axes even where the rest is float.
_DATA_INPUTS = {"Gather": 1, "GatherND": 1, "Pad": 1, "Reshape": 1, "Slice": 1, "Split": 1, "Unsqueeze": 1}


def half_graph(source: SourceGraph, weights: WeightFile) -> Any:
    """Convert a graph.

    Args:
        source: fp32 graph.
        weights: Receives the fp16 weights; graphs of one tower share it.

    Returns:
        The ``ModelProto``: float inputs are float16, outputs float32.

    Raises:
        BundleError: If the graph holds an operator that this conversion does not know.
        ParityError: If a weight is beyond the range of float16.
    """
    return _HalfConverter(source, weights).convert()


class _HalfConverter:
    """Carries the float type of every value while the nodes are copied."""

    def __init__(self, source: SourceGraph, weights: WeightFile) -> None:
        self.source = source
        self.g = GraphBuilder(source.name, weights)
        self.types: dict[str, type[np.generic]] = {}
        self.casts: dict[tuple[str, type[np.generic]], str] = {}

    def convert(self) -> Any:
        graph = self.source.model.graph
        for value in graph.input:
            dtype = numpy_type(value.type.tensor_type.elem_type).type
            self.types[value.name] = np.float16 if dtype is np.float32 else dtype
            self.g.add_input(value.name, self.types[value.name], dimensions_of(value))
        for node in self.source.nodes():
            self._copy(node)
        for value in graph.output:
            if self.types[value.name] is not np.float32:
                raise BundleError(f"{self.source.path} does not end in an L2 norm: export the bundle again")
            self.g.add_output(value.name, np.float32, dimensions_of(value))
        return self.g.model()

    def _copy(self, node: Any) -> None:
        attributes, op = attributes_of(node), node.op_type
        if op == "Cast":
            kind = numpy_type(attributes["to"]).type
        elif op in _SINGLE:
            kind = np.float32
        elif op in _HALF:
            kind = np.float16
        elif op in _MOVING:
            kind = self._type_of(node.input[0])
        else:
            raise BundleError(
                f"{self.source.path} holds the operator {op}, which has no fp16 conversion here"
            )
        data_inputs = _DATA_INPUTS.get(op, len(node.input))
        inputs = [
            self._as(name, kind) if index < data_inputs else self._as(name, self._type_of(name))
            for index, name in enumerate(node.input)
        ]
        self.g.split(op, inputs, node.output, **attributes)
        for output in node.output:
            self.types[output] = np.int64 if op == "Shape" else kind

    def _type_of(self, value: str) -> type[np.generic]:
        if not self.source.is_constant(value):
            return self.types[value]
        dtype = self.source.dtype(value).type
        return np.float16 if dtype is np.float32 else dtype

    def _as(self, value: str, kind: type[np.generic]) -> str:
        """``value`` as ``kind``: the weight stored so, or a cast that is made once."""
        if not value:
            return value
        if self.source.is_constant(value):
            return self._constant(value, kind)
        found = self.types[value]
        if found is kind or not issubclass(found, np.floating) or not issubclass(kind, np.floating):
            return value
        if (value, kind) not in self.casts:
            name = f"{value}.as_{np.dtype(kind).name}"
            self.casts[value, kind] = self.g.node("Cast", (value,), name, to=np_to_onnx(kind))
        return self.casts[value, kind]

    def _constant(self, value: str, kind: type[np.generic]) -> str:
        if not issubclass(self.source.dtype(value).type, np.floating):
            return self.source.copy_constant(self.g, value)
        name = value if kind is np.float16 else f"{value}.float32"
        if self.source.is_inline(value):
            return self.g.constant(name, self.source.array(value).astype(kind))
        return self.g.weight(name, lambda: self._narrow(value) if kind is np.float16 else self._wide(value))

    def _wide(self, value: str) -> NDArray[np.float32]:
        return self.source.array(value).astype(np.float32)

    def _narrow(self, value: str) -> NDArray[np.float16]:
        array = self.source.array(value)
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float16)
        if not np.isfinite(narrow).all():
            raise ParityError(
                f"weight {value} reaches {np.abs(array).max():g}, beyond float16's 65504: "
                "this model cannot run in fp16"
            )
        return narrow
