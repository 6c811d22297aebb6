"""The smallest graph that shows whether a library runs: what it was compiled for proves nothing."""

from __future__ import annotations

__all__ = ["PROBE_GRAPH"]

# Written down, so that a real run needs no file and no onnx.
PROBE_GRAPH = (
    b'\x08\x08:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02B\x04\n\x00\x10\x11"
)
"""``y = x + x`` for two floats: opset 17, IR version 8."""
