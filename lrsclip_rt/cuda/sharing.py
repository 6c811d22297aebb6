"""Arrays on the device, handed to and taken from other libraries without a copy.

pycuda, CuPy, PyTorch and Numba share memory by ``__cuda_array_interface__`` or DLPack. All of them work in
the primary context, as we do, so an address means the same to each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrsclip_rt.errors import InputError

__all__ = ["DeviceArray", "MappedArray", "device_array"]

_CUDA, _CUDA_HOST = 2, 3
_KINDS = {"i": 0, "u": 1, "f": 2}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    """DLTensor of DLPack 0.8."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_handed_out: dict[int, tuple[Any, ...]] = {}
"""What lives until its consumer gives it back, by the address of its description."""


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array on a device.

    Attributes:
        address: Of its first element.
        shape: As NumPy's.
        dtype: NumPy's name of its type.
        device_id: The GPU's number.
        owner: Kept as long as the array, and as long as anybody uses its memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device_id: int = 0
    owner: object = None

    @property
    def nbytes(self) -> int:
        """Its size [bytes]."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; work on it in another stream must wait for ours."""
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device."""
        return _CUDA, self.device_id

    def __dlpack__(self, *, stream: int | None = None, **newer: object) -> Any:
        """A capsule that its consumer gives back; our work on the array must be done."""
        return _capsule(self, *self.__dlpack_device__())


@dataclass(frozen=True)
class MappedArray(DeviceArray):
    """The same in page-locked memory, which the host reads in place too: NumPy takes it by DLPack."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device."""
        return _CUDA_HOST, 0


def device_array(array: Any) -> DeviceArray:
    """An array of another library, as an address.

    Args:
        array: Anything with ``__cuda_array_interface__``: of pycuda, CuPy, PyTorch, Numba or ours.

    Raises:
        InputError: If it has none, or is not C-contiguous.

    Example:
        >>> device_array(DeviceArray(4096, (2, 3), "float16")).nbytes
        12
    """
    if isinstance(array, DeviceArray):
        return array
    told = getattr(array, "__cuda_array_interface__", None)
    if told is None:
        raise InputError(
            f"{type(array).__name__} is no array on a GPU: it has no __cuda_array_interface__. "
            "Move it there first, for example with .cuda()"
        )
    shape, kind = tuple(told["shape"]), np.dtype(told["typestr"])
    expected = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) * kind.itemsize for i in range(len(shape)))
    strides = told.get("strides")
    if strides is not None and tuple(strides) != expected and np.prod(shape) > 1:
        raise InputError(
            f"the array has the strides {tuple(strides)}, expected {expected}: make it contiguous"
        )
    device = getattr(getattr(array, "device", None), "index", None)
    return DeviceArray(int(told["data"][0]), shape, kind.name, device or 0, array)


def _capsule(array: DeviceArray, device_type: int, device_id: int) -> Any:
    """Describe an array for DLPack; the description lives until its deleter is called."""
    kind = np.dtype(array.dtype)
    shape = (ctypes.c_int64 * max(1, len(array.shape)))(*array.shape)
    managed = _Managed()
    managed.tensor = _Tensor(
        array.address,
        device_type,
        device_id,
        len(array.shape),
        _KINDS[kind.kind],
        8 * kind.itemsize,
        1,
        shape,
        None,
        0,
    )
    managed.deleter = _deleter
    address = ctypes.addressof(managed)
    _handed_out[address] = (managed, shape, array)
    new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(address, _NAME, ctypes.cast(_unused, ctypes.c_void_p))


def _give_back(managed: Any) -> None:
    _handed_out.pop(ctypes.addressof(managed.contents), None)


def _give_back_unused(capsule: int) -> None:
    """A capsule that nobody took: its name is still the first one."""
    valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
    if valid(capsule, _NAME):
        pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        _handed_out.pop(pointer(capsule, _NAME), None)


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of Python's own C interface."""
    function: Any = ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))
    return function  # type: ignore[no-any-return]


_deleter = _Deleter(_give_back)
_unused = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_give_back_unused)
"""Callbacks live as long as the process: a consumer may be the last to end."""
