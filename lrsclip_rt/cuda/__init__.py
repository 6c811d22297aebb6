"""A thin layer over the CUDA driver: libcuda by ctypes, no toolkit and nothing to compile.

Everything lives in the device's primary context, which ONNX Runtime and TensorRT use too, so that memory and
streams can be handed to them by address.
"""

from __future__ import annotations

__all__: list[str] = []
