"""What TensorRT says while it works: its messages, and how far a build is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt

__all__ = ["Messages", "logger_from_module", "monitor_from_module"]

_log = logging.getLogger(__name__)

_KEPT = 5


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
