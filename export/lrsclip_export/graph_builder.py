"""A thin layer over ``onnx.helper``: named nodes, shared external weights, inline constants.

Graphs are written node by node rather than traced, so that they are the same bytes with every
version of every library and hold exactly the operators that TensorRT's parser knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.weight_file import WeightFile

__all__ = ["IR_VERSION", "OPSET", "GraphBuilder", "fits_half"]

# 17 is the first opset with LayerNormalization; runtimes from 2022 on read IR version 8.
OPSET = 17
IR_VERSION = 8


def fits_half(array: NDArray[Any]) -> bool:
    """Whether every number of ``array`` is exactly a float16 (subnormal ones included).

    Example:
        >>> fits_half(np.float32([1.5, 2.0**-24])), fits_half(np.float32([0.1])), fits_half(np.float32([1e6]))
        (True, False, False)
    """
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float16).astype(array.dtype), array))


class GraphBuilder:
    """Collect the nodes of one graph.

    Args:
        name: Name of the graph.
        weights: File that receives the large tensors.
        store_half: Store each float weight that is exactly representable as float16 and cast it
            inside the graph; backends fold the casts when they load it.
    """

    def __init__(self, name: str, weights: WeightFile, *, store_half: bool = False) -> None:
        self.name = name
        self.weights = weights
        self.store_half = store_half
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initialisers: dict[str, Any] = {}
        self._values: set[str] = set()

    def __contains__(self, value: str) -> bool:
        """The graph has a value of this name."""
        return value in self._values

    def add_input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        """Declare a graph input; strings in ``shape`` are dynamic axes."""
        self._inputs.append(_value_info(name, dtype, shape))
        self._claim(name)
        return name

    def add_output(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> None:
        """Declare the value ``name`` a graph output."""
        self._outputs.append(_value_info(name, dtype, shape))

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output and return that output."""
        return self.split(op, inputs, (output,), **attributes)[0]

    def split(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with several outputs and return them."""
        import onnx

        for output in outputs:
            self._claim(output)
        # Sorted, because make_node keeps the order of keywords and files should be reproducible.
        ordered = dict(sorted(attributes.items()))
        self._nodes.append(onnx.helper.make_node(op, list(inputs), list(outputs), name=outputs[0], **ordered))
        return tuple(outputs)

    def weight(self, name: str, make: Callable[[], NDArray[Any]]) -> str:
        """A tensor of the weight file; ``make`` is called only where the file lacks it.

        Returns:
            The value to use: the tensor, or its cast to float32 where it is stored as float16.
        """
        if name not in self.weights:
            array = make()
            if self.store_half and array.dtype == np.float32 and fits_half(array):
                array = array.astype(np.float16)
            self.weights.add(name, array)
        if self.weights[name].dtype == "float16" and self.store_half:
            value = f"{name}.fp32"
            if value not in self._values:
                self.stored(name)
                self.node("Cast", [name], value, to=np_to_onnx(np.float32))
            return value
        return self.stored(name)

    def stored(self, name: str) -> str:
        """A tensor of the weight file in the type it is stored in."""
        if name not in self._initialisers:
            self._claim(name)
            self._initialisers[name] = self.weights.tensor(name)
        return name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """A small tensor inside the graph file itself: shapes, axes, scalars; shared by name."""
        import onnx

        if name not in self._initialisers:
            self._claim(name)
            self._initialisers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def model(self) -> Any:
        """The finished ``ModelProto``; weights are references."""
        import onnx

        graph = onnx.helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initialisers.values())
        )
        model = onnx.helper.make_model(
            graph, producer_name="lrsclip-rt", opset_imports=[onnx.helper.make_opsetid("", OPSET)]
        )
        model.ir_version = IR_VERSION
        return model

    def _claim(self, value: str) -> None:
        assert value not in self._values, f"value {value} is defined twice"
        self._values.add(value)


def np_to_onnx(dtype: type[np.generic]) -> int:
    """ONNX's number of a NumPy type."""
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _value_info(name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, np_to_onnx(dtype), list(shape))
