"""TensorRT 10.3 to 11.x: engines built on the device from a bundle's typed ONNX files, kept, and run.

The library is imported where it is used, and always under the name ``trt``. What is handed about is annotated
with its class of TensorRT: the tests hold each of its names against the real bindings by these annotations.
"""

from __future__ import annotations

__all__: list[str] = []
