"""What TensorRT says while it works: its messages, and how far a build is."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt

__all__ = ["Messages", "fused_attention", "logger_from_module", "monitor_from_module"]

_log = logging.getLogger(__name__)

_KEPT = 5
_FUSED = ("mha", "fused_attention", "flash_attn", "flashattention")
"""What TensorRT calls kernels that hold both products and the softmax between them."""


class Messages:
    """The last errors that TensorRT reported; most calls return None or False and say why only there."""

    def __init__(self) -> None:
        self._errors: list[str] = []

    def add(self, message: str) -> None:
        """Keep an error."""
        self._errors = [*self._errors, " ".join(message.split())[:300]][-_KEPT:]

    def text(self) -> str:
        """What was reported since the last call."""
        errors, self._errors = self._errors, []
        return "; ".join(errors) or "TensorRT gave no reason"


def fused_attention(layers: Sequence[Any]) -> bool | None:
    """Whether attention became one kernel, as the names of layers and tactics tell.

    Args:
        layers: What the inspector says: a name each, or an object with details, depending on the version.

    Returns:
        None where neither such a kernel nor a softmax of its own is named.

    Example:
        >>> fused_attention([{"Name": "gemm"}, {"Name": "_gemm_mha_v2_myl0_7"}])
        True
        >>> fused_attention(["/blocks.0/attn/Softmax"]), fused_attention(["one"])
        (False, None)
    """
    words = json.dumps(layers).lower()
    if any(name in words for name in _FUSED):
        return True
    return False if "softmax" in words else None


def logger_from_module(trt: ModuleType, messages: Messages) -> tensorrt.ILogger:
    """A logger that keeps errors and hands everything to ``logging``; to be kept as long as its users."""
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            level = levels[severity]
            # Errors are raised by us, with these words.
            if level == logging.ERROR:
                messages.add(msg)
            _log.log(min(level, logging.WARNING), "%s", msg)

    return Logger()


def monitor_from_module(trt: ModuleType, advance: Callable[[str, float], None]) -> tensorrt.IProgressMonitor:
    """A monitor that reports the outermost phase of a build.

    Args:
        trt: The bindings.
        advance: Called with the phase's name and the share of it that is done. What it raises stops the build
            after the current step; it must not expect to see the exception again.
    """
    steps: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            if not parent_phase:
                steps[phase_name] = max(1, num_steps)
                advance(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in steps:
                try:
                    advance(phase_name, min(1.0, (step + 1) / steps[phase_name]))
                except Exception:  # it would have to pass through C++; False is how a build is cancelled
                    _log.debug("a build was cancelled", exc_info=True)
                    return False
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps.pop(phase_name, None)

    return Monitor()
