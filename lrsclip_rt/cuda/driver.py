"""libcuda by ctypes: every call has its types, and every status becomes an error with the driver's words."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from lrsclip_rt.errors import BackendError, DeviceMemoryError

__all__ = ["SIGNATURES", "Driver", "cuda_driver"]

_LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY = 2

_int, _uint, _size = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t
_handle, _text, _out = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
_pointer = ctypes.c_uint64
"""CUdeviceptr: 64 bits on every system that is supported."""

SIGNATURES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "cuInit": (_uint,),
        "cuDriverGetVersion": (_out,),
        "cuGetErrorName": (_int, _out),
        "cuGetErrorString": (_int, _out),
        "cuDeviceGetCount": (_out,),
        "cuDeviceGet": (_out, _int),
        "cuDeviceGetName": (_text, _int, _int),
        "cuDeviceGetAttribute": (_out, _int, _int),
        "cuDeviceGetPCIBusId": (_text, _int, _int),
        "cuDevicePrimaryCtxRetain": (_out, _int),
        "cuDevicePrimaryCtxRelease_v2": (_int,),
        "cuCtxPushCurrent_v2": (_handle,),
        "cuCtxPopCurrent_v2": (_out,),
        "cuMemGetInfo_v2": (_out, _out),
        "cuMemAlloc_v2": (_out, _size),
        "cuMemFree_v2": (_pointer,),
        "cuMemHostAlloc": (_out, _size, _uint),
        "cuMemHostGetDevicePointer_v2": (_out, _handle, _uint),
        "cuMemFreeHost": (_handle,),
        "cuMemcpyHtoDAsync_v2": (_pointer, _handle, _size, _handle),
        "cuMemcpyDtoHAsync_v2": (_handle, _pointer, _size, _handle),
        "cuMemcpyDtoDAsync_v2": (_pointer, _pointer, _size, _handle),
        "cuMemsetD8Async": (_pointer, ctypes.c_ubyte, _size, _handle),
        "cuStreamCreate": (_out, _uint),
        "cuStreamSynchronize": (_handle,),
        "cuStreamDestroy_v2": (_handle,),
        "cuStreamBeginCapture_v2": (_handle, _int),
        "cuStreamEndCapture": (_handle, _out),
        "cuEventCreate": (_out, _uint),
        "cuEventRecord": (_handle, _handle),
        "cuEventSynchronize": (_handle,),
        "cuEventElapsedTime": (_out, _handle, _handle),
        "cuEventDestroy_v2": (_handle,),
        "cuGraphInstantiateWithFlags": (_out, _handle, ctypes.c_uint64),
        "cuGraphLaunch": (_handle, _handle),
        "cuGraphExecDestroy": (_handle,),
        "cuGraphDestroy": (_handle,),
        "cuModuleLoadData": (_out, _handle),
        "cuModuleGetFunction": (_out, _handle, _text),
        "cuModuleUnload": (_handle,),
        "cuFuncSetAttribute": (_handle, _int, _int),
        "cuLaunchKernel": (_handle, *(_uint,) * 7, _handle, _out, _out),
    }
)
"""Every function of the driver that is used, with the types of its arguments; all return a status."""


class Driver:
    """The functions of libcuda, initialised.

    Args:
        library: What is loaded.

    Raises:
        BackendError: If there is no driver, it is too old, or it finds no device.
    """

    def __init__(self, library: str = _LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise BackendError(
                f"no NVIDIA driver here ({library} cannot be loaded). Run this on the machine with the GPU"
            ) from error
        for name, types in SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise BackendError(
                    f"{library} lacks {name}: its CUDA is older than 11.4. Upgrade the driver"
                ) from error
            function.argtypes, function.restype = types, ctypes.c_int
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of ``SIGNATURES``.

        Raises:
            DeviceMemoryError: If the device has no memory left for it.
            BackendError: If it fails otherwise; with the name and the words of the driver.
        """
        status = getattr(self._library, name)(*arguments)
        if status == 0:
            return
        said = f"{name} failed: {self._words('cuGetErrorName', status)}"
        words = self._words("cuGetErrorString", status)
        if status == _OUT_OF_MEMORY:
            raise DeviceMemoryError(f"{said}: {words}")
        raise BackendError(f"{said}: {words}")

    @property
    def version(self) -> str:
        """The newest CUDA that this driver runs, for example ``12.6``."""
        found = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(found))
        return f"{found.value // 1000}.{found.value % 1000 // 10}"

    def _words(self, function: str, status: int) -> str:
        text = ctypes.c_char_p()
        if getattr(self._library, function)(status, ctypes.byref(text)) != 0 or text.value is None:
            return f"status {status}"
        return text.value.decode("ascii", "replace")


@lru_cache(maxsize=1)
def cuda_driver() -> Driver:
    """This machine's driver, loaded once.

    Raises:
        BackendError: If there is none, or it finds no device.
    """
    return Driver()
