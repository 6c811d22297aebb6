"""One external weight file per tower and precision, written once, tensor after tensor.

Several graphs name the same tensors by offset, so the folder holds each weight once and no more
than one tensor is in memory while the file is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIGNMENT_BYTES", "StoredTensor", "WeightFile"]

# A cache line: every tensor can be mapped and read in place by any backend.
ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its weight file.

    Attributes:
        dtype: NumPy name of the element type.
        shape: Dimensions, row-major.
        offset: First byte, a multiple of :data:`ALIGNMENT_BYTES`.
        length: Bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class WeightFile:
    """Write tensors to ``path`` by name; a name that is there already is not written again.

    Args:
        path: File to create; graphs that use it must lie in the same folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._stored: dict[str, StoredTensor] = {}

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __getitem__(self, name: str) -> StoredTensor:
        return self._stored[name]

    def add(self, name: str, array: NDArray[Any]) -> StoredTensor:
        """Append ``array`` (any shape and type) under ``name`` unless it is there already."""
        if name in self._stored:
            return self._stored[name]
        position = self._file.tell()
        offset = -(-position // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._file.write(b"\0" * (offset - position))
        contiguous = np.ascontiguousarray(array)
        self._file.write(contiguous.data)
        stored = StoredTensor(contiguous.dtype.name, tuple(array.shape), offset, contiguous.nbytes)
        self._stored[name] = stored
        return stored

    def tensor(self, name: str) -> Any:
        """The ``TensorProto`` by which a graph refers to ``name``; it holds no data."""
        import onnx

        stored = self._stored[name]
        tensor = onnx.TensorProto()
        tensor.name = name
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(stored.dtype))
        tensor.dims.extend(stored.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", self.path.name),
            ("offset", str(stored.offset)),
            ("length", str(stored.length)),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        return tensor
