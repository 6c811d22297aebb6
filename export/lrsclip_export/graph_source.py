"""An fp32 graph on disk as the source of other precisions: its nodes, and its weights one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.graph_builder import GraphBuilder
from lrsclip_rt.errors import BundleError

__all__ = ["SourceGraph", "attributes_of", "dimensions_of", "numpy_type"]


class SourceGraph:
    """A graph whose weights stay in their file until they are asked for.

    Args:
        path: The ``.onnx`` file; external weights lie in its folder.

    Raises:
        BundleError: If the file is no ONNX graph.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        try:
            self.model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's error classes differ between its implementations
            raise BundleError(f"{path} is not an ONNX graph: {error}") from error
        graph = self.model.graph
        self.name: str = graph.name
        self._initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self._derived = self._constant_nodes()

    def nodes(self) -> list[Any]:
        """Nodes that depend on an input, in order; products and casts of constants are left out."""
        return [node for node in self.model.graph.node if node.output[0] not in self._derived]

    def is_constant(self, value: str) -> bool:
        """Whether ``value`` is a weight, or a product or cast of weights."""
        return value in self._initialisers or value in self._derived

    def is_inline(self, value: str) -> bool:
        """Whether the constant lies in the graph file itself: a shape, axes or a scalar."""
        return value in self._initialisers and not self._initialisers[value].external_data

    def dtype(self, value: str) -> np.dtype[Any]:
        """Element type of a constant."""
        if value in self._derived:
            node = self._derived[value]
            return _cast_type(node) if node.op_type == "Cast" else self.dtype(node.input[0])
        return numpy_type(self._initialisers[value].data_type)

    def shape(self, value: str) -> tuple[int, ...]:
        """Shape of a constant."""
        if value in self._derived:
            return np.broadcast_shapes(*(self.shape(name) for name in self._derived[value].input))
        return tuple(self._initialisers[value].dims)

    def array(self, value: str) -> NDArray[Any]:
        """Numbers of a constant; a stored tensor is a read-only view of its file."""
        if value not in self._derived:
            return self._stored(self._initialisers[value])
        node = self._derived[value]
        parts = [self.array(name) for name in node.input]
        array: NDArray[Any] = parts[0].astype(_cast_type(node)) if len(parts) == 1 else parts[0] * parts[1]
        return array

    def copy_constant(self, g: GraphBuilder, value: str) -> str:
        """The constant in ``g`` under its own name, in the graph file or the weight file as here."""
        if self.is_inline(value):
            return g.constant(value, self.array(value))
        return g.weight(value, lambda: self.array(value))

    def _constant_nodes(self) -> dict[str, Any]:
        derived: dict[str, Any] = {}
        for node in self.model.graph.node:
            known = all(name in self._initialisers or name in derived for name in node.input)
            if known and node.op_type in {"Cast", "Mul"}:
                derived[node.output[0]] = node
        return derived

    def _stored(self, tensor: Any) -> NDArray[Any]:
        import onnx

        if not tensor.external_data:
            array: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
            return array
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self.path.parent / entries["location"]
        if path.parent != self.path.parent or ".." in entries["location"]:
            raise BundleError(f"{self.path} takes weights from {entries['location']!r}, outside its folder")
        dtype, shape = numpy_type(tensor.data_type), tuple(tensor.dims)
        offset = int(entries.get("offset", 0))
        if offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64)) > path.stat().st_size:
            raise BundleError(f"{path} ends before tensor {tensor.name} of {self.path.name} does")
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def attributes_of(node: Any) -> dict[str, Any]:
    """Attributes of a node as keyword arguments of :meth:`GraphBuilder.node`."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def dimensions_of(value_info: Any) -> list[int | str]:
    """Shape of a graph input or output; dynamic axes by name."""
    return [axis.dim_param or axis.dim_value for axis in value_info.type.tensor_type.shape.dim]


def _cast_type(node: Any) -> np.dtype[Any]:
    return numpy_type(attributes_of(node)["to"])


def numpy_type(number: int) -> np.dtype[Any]:
    """NumPy's type of an ONNX element type."""
    import onnx

    dtype: np.dtype[Any] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
    return dtype
