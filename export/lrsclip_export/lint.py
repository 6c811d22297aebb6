"""Would TensorRT take this file? Rules that a graph has to keep, checked without TensorRT.

Operators and types are an allow-list after the operator table of TensorRT's ONNX parser (onnx-tensorrt
``docs/operators.md``), cut down to what the graphs of a bundle need. Read were the tables of 8.4 and of
10.15, which enclose 10.3; LayerNormalization and float8 are in the later one alone. The rules about Q/DQ
are those of a strongly typed network, and where this project quantises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lrsclip_export.graph_source import SourceGraph, attributes_of
from lrsclip_rt.errors import BundleError

__all__ = ["ALLOWED_OPERATORS", "graph_findings", "refuse_findings"]

_OPSETS = range(17, 21)
_TYPED_QDQ_OPSET = 19
_NEWEST_IR = 10

_FLOAT = frozenset({"FLOAT", "FLOAT16"})
_WHOLE = frozenset({"INT32", "INT64"})
_QUANTISED = frozenset({"INT8", "FLOAT8E4M3FN"})

ALLOWED_OPERATORS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "Add": _FLOAT,
        "Cast": _FLOAT | _WHOLE,
        "Clip": _FLOAT,
        "Concat": _FLOAT | _WHOLE,
        "Conv": _FLOAT,
        "DequantizeLinear": _QUANTISED,
        "Div": _FLOAT,
        "Gather": _FLOAT | _WHOLE,
        "GatherND": _FLOAT | _WHOLE,
        "LayerNormalization": _FLOAT,
        "MatMul": _FLOAT,
        "Max": _FLOAT,
        "Mul": _FLOAT,
        "Pad": _FLOAT,
        "QuantizeLinear": _FLOAT,
        "ReduceSumSquare": _FLOAT,
        "Reshape": _FLOAT,
        "Shape": _FLOAT | _WHOLE,
        "Sigmoid": _FLOAT,
        "Slice": _FLOAT | _WHOLE,
        "Softmax": _FLOAT,
        "Split": _FLOAT,
        "Sqrt": _FLOAT,
        "Transpose": _FLOAT,
        "Unsqueeze": _FLOAT | _WHOLE,
    }
)
"""Types of the first input by operator."""

# Inputs that the parser wants as constants, by their places.
_CONSTANT_INPUTS = MappingProxyType(
    {
        "Conv": (1, 2),
        "Pad": (1, 2),
        "ReduceSumSquare": (1,),
        "Reshape": (1,),
        "Slice": (3, 4),
        "Split": (1,),
        "Unsqueeze": (1,),
    }
)
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def graph_findings(path: Path) -> tuple[str, ...]:
    """What TensorRT would refuse, or run otherwise than meant; nothing for a good file.

    Raises:
        BundleError: If the file is no ONNX graph.
    """
    return tuple(_Linter(SourceGraph(path)).findings())


def refuse_findings(path: Path) -> None:
    """Let a graph pass that has no findings.

    Raises:
        BundleError: If it has; names the first three.
    """
    found = graph_findings(path)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise BundleError(f"{path} would not build in TensorRT: {'; '.join(found[:3])}{more}")


class _Linter:
    def __init__(self, source: SourceGraph) -> None:
        self.source = source
        self.graph = source.model.graph
        self.initialisers = {tensor.name for tensor in self.graph.initializer}
        self.makers = {output: node for node in self.graph.node for output in node.output}
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.types: dict[str, str] = {}

    def findings(self) -> Iterator[str]:
        yield from self._versions()
        yield from self._infer_types()
        for node in self.graph.node:
            if node.domain not in ("", "ai.onnx"):
                yield f"{node.op_type} of {node.domain} is a vendor's operator"
            elif node.op_type not in ALLOWED_OPERATORS:
                yield f"operator {node.op_type} is not allowed"
            else:
                yield from self._types(node)
                yield from self._constants(node)
                yield from self._pair(node)
        yield from self._products()

    def _versions(self) -> Iterator[str]:
        if self.source.model.ir_version > _NEWEST_IR:
            yield f"IR version {self.source.model.ir_version} is newer than {_NEWEST_IR}"
        opsets = {entry.domain: entry.version for entry in self.source.model.opset_import}
        if set(opsets) - {"", "ai.onnx"}:
            yield f"opset domains {', '.join(sorted(opsets))}, expected the standard one alone"
        version = opsets.get("", opsets.get("ai.onnx", 0))
        if version not in _OPSETS:
            yield f"opset {version} is outside {_OPSETS.start}-{_OPSETS.stop - 1}"
        elif version < _TYPED_QDQ_OPSET and any(node.op_type in _PAIR for node in self.graph.node):
            yield f"opset {version} has no typed Q/DQ, which needs {_TYPED_QDQ_OPSET}"

    def _infer_types(self) -> Iterator[str]:
        """Types of all values; what mixes types, which strongly typed networks refuse, fails here."""
        import onnx

        try:
            inferred = onnx.shape_inference.infer_shapes(self.source.model, check_type=True, strict_mode=True)
        except Exception as error:  # onnx raises its own class, and RuntimeError for unknown operators
            yield f"types do not fit: {' '.join(str(error).split())[:200]}"
            inferred = self.source.model
        name_of = onnx.TensorProto.DataType.Name
        graph = inferred.graph
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.types[value.name] = name_of(value.type.tensor_type.elem_type)
        for tensor in graph.initializer:
            self.types[tensor.name] = name_of(tensor.data_type)

    def _types(self, node: Any) -> Iterator[str]:
        first = self.types.get(node.input[0])
        if first is not None and first not in ALLOWED_OPERATORS[node.op_type]:
            yield f"{node.op_type} {node.output[0]} takes {first}"

    def _constants(self, node: Any) -> Iterator[str]:
        for place in _CONSTANT_INPUTS.get(node.op_type, ()):
            if place >= len(node.input) or not node.input[place]:
                continue
            if not self.source.is_constant(node.input[place]):
                yield f"input {place} of {node.op_type} {node.output[0]} is not a constant"
        if node.op_type == "Pad" and attributes_of(node).get("mode", b"constant") != b"constant":
            yield f"Pad {node.output[0]} is not of constant mode"
        if node.op_type == "LayerNormalization" and len(node.output) > 1:
            yield f"LayerNormalization {node.output[0]} has more than one output"

    def _pair(self, node: Any) -> Iterator[str]:
        if node.op_type not in _PAIR:
            return
        name = f"{node.op_type} {node.output[0]}"
        yield from self._numbers(node, name)
        if node.op_type == "QuantizeLinear":
            if len(node.input) < 3:
                yield f"{name} has no zero point, so it makes uint8"
            for user in self.users.get(node.output[0], ()):
                if user.op_type != "DequantizeLinear" or list(user.input[1:]) != list(node.input[1:]):
                    yield f"{name} is not followed by its own DequantizeLinear alone"
            return
        maker = self.makers.get(node.input[0])
        if node.input[0] not in self.initialisers and (maker is None or maker.op_type != "QuantizeLinear"):
            yield f"{name} has neither a stored weight nor a QuantizeLinear before it"
        for user in self.users.get(node.output[0], ()):
            if user.op_type != "MatMul":
                yield f"{name} feeds {user.op_type} {user.output[0]}; only products are quantised"

    def _numbers(self, node: Any, name: str) -> Iterator[str]:
        """Scales are positive constants of the right shape; zero points are zero and of an 8-bit type."""
        parts = [part for part in node.input[1:] if part]
        if not all(part in self.initialisers for part in parts):
            yield f"{name} has a scale or zero point that is not stored"
            return
        scale = np.asarray(self.source.array(parts[0]), dtype=np.float32)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{name} has a scale that is not positive"
        weight = node.op_type == "DequantizeLinear" and node.input[0] in self.initialisers
        by_column = weight and self.types.get(node.input[0]) == "INT8"
        if by_column and scale.ndim == 1:
            shape, axis = self.source.shape(node.input[0]), attributes_of(node).get("axis", 1)
            if axis not in (1, -1) or len(shape) != 2 or shape[1] != scale.size:
                yield f"{name} does not have one scale for each column"
        elif scale.ndim != 0:
            yield f"{name} has {scale.size} scales, expected one"
        if len(parts) > 1:
            if self.types[parts[1]] not in _QUANTISED:
                yield f"{name} has a zero point of {self.types[parts[1]]}"
            elif np.asarray(self.source.array(parts[1]), dtype=np.float32).any():
                yield f"{name} has a zero point that is not zero"

    def _products(self) -> Iterator[str]:
        normed = {
            name for node in self.graph.node if node.op_type == "ReduceSumSquare" for name in node.input
        }
        for node in self.graph.node:
            if node.op_type != "MatMul":
                continue
            makers = [self.makers.get(name) for name in node.input]
            quantised = [maker is not None and maker.op_type == "DequantizeLinear" for maker in makers]
            if any(quantised) and not all(quantised):
                yield f"MatMul {node.output[0]} has only one quantised input"
            elif all(quantised):
                if makers[1] is not None and makers[1].input[0] not in self.initialisers:
                    yield f"MatMul {node.output[0]} multiplies two quantised activations"
                if self._reaches(node.output[0], normed):
                    yield f"MatMul {node.output[0]} is the final projection and quantised"

    def _reaches(self, value: str, targets: set[str]) -> bool:
        """Whether ``value``, itself or cast, is one of ``targets``."""
        casts = [user.output[0] for user in self.users.get(value, ()) if user.op_type == "Cast"]
        return value in targets or any(cast in targets for cast in casts)
