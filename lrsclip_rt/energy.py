"""What a device draws: NVML's counter of a GPU, or the sensors of a Jetson's rails.

A Jetson's sensors cover the board, CPU and memory included; NVML's counter covers the card alone. Which it
was is told with every figure, and where nothing can be read the reason takes its place.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lrsclip_rt.errors import BackendError

__all__ = [
    "BoardMeter",
    "EnergyMeter",
    "GpuMeter",
    "Measured",
    "board_watts",
    "energy_meter",
    "measured_energy",
]

_RAILS = Path("/sys/bus/i2c/drivers/ina3221")
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VDD_SYS_IN")
"""Rails that feed all others; where a board has none of them its rails are added up."""
_NVML = "libnvidia-ml.so.1"
_SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """Energy of some work.

    Attributes:
        joules: Of all of it.
        seconds: How long it took.
        source: What was read.
    """

    joules: float
    seconds: float
    source: str

    @property
    def watts(self) -> float:
        """The mean."""
        return self.joules / self.seconds


class EnergyMeter(Protocol):
    """Counts energy from ``start`` to ``stop``."""

    source: str

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float:
        """Energy since ``start`` [J]."""

    def close(self) -> None:
        """Let go of what is read."""


def energy_meter(bus_id: str | None = None, *, rails: Path = _RAILS, nvml: str = _NVML) -> EnergyMeter:
    """What can be read here: the board's sensors where there are some, else the GPU's counter.

    Args:
        bus_id: The GPU's PCI address; None where there is none.
        rails: Folder of the driver of the board's sensors.
        nvml: The library of NVML.

    Raises:
        BackendError: If nothing can be read, with the reasons.
    """
    reasons = []
    for make in (lambda: BoardMeter(rails), lambda: GpuMeter(bus_id, nvml)):
        try:
            return make()
        except BackendError as error:
            reasons.append(str(error))
    raise BackendError(f"energy is not readable here: {'; '.join(reasons)}")


def measured_energy(meter: EnergyMeter, work: Callable[[], object]) -> Measured:
    """Run something that waits for what it started, and measure it."""
    start = time.perf_counter()
    meter.start()
    try:
        work()
    finally:
        joules = meter.stop()
    return Measured(joules, time.perf_counter() - start, meter.source)


def board_watts(rails: Path = _RAILS) -> float:
    """What a Jetson draws now, from the sensors of its rails [W].

    Raises:
        BackendError: If there are no such sensors, or they cannot be read.
    """
    found: dict[str, float] = {}
    for label in sorted(rails.glob("*/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        try:
            name = label.read_text(encoding="ascii").strip()
            millivolts = int((label.parent / f"in{number}_input").read_text(encoding="ascii"))
            milliamperes = int((label.parent / f"curr{number}_input").read_text(encoding="ascii"))
        except FileNotFoundError:
            continue  # the sum of shunt voltages has no current
        except (OSError, ValueError) as error:
            raise BackendError(f"the board's sensor {label} cannot be read: {error}") from error
        found[name] = millivolts * milliamperes / 1e6
    if not found:
        raise BackendError(f"there are no sensors of a board's rails in {rails}")
    whole = [watts for name, watts in found.items() if name in _WHOLE_BOARD]
    return whole[0] if whole else sum(found.values())


class BoardMeter:
    """A Jetson's rails, sampled by a thread and summed over time.

    Raises:
        BackendError: If there are no such sensors, or they cannot be read.
    """

    source = "sensors of the board's rails"

    def __init__(self, rails: Path = _RAILS) -> None:
        self._rails = rails
        board_watts(rails)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._joules = 0.0

    def start(self) -> None:
        """Begin to sample."""
        self._joules = 0.0
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, name="lrsclip-energy", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Energy since ``start`` [J]."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self._joules

    def close(self) -> None:
        """Nothing is held."""

    def _sample(self) -> None:
        at, watts = time.perf_counter(), board_watts(self._rails)
        while not self._stop.wait(_SAMPLE_S):
            at, watts = self._add(at, watts)
        self._add(at, watts)

    def _add(self, before: float, watts: float) -> tuple[float, float]:
        now = time.perf_counter()
        try:
            found = board_watts(self._rails)
        except BackendError:  # a sensor that is busy: the last value stands
            found = watts
        self._joules += (watts + found) / 2 * (now - before)
        return now, found


class GpuMeter:
    """The energy counter of a GPU.

    Args:
        bus_id: Its PCI address.
        library: NVML.

    Raises:
        BackendError: If there is no NVML or no such counter.
    """

    source = "NVML's energy counter of the GPU"

    def __init__(self, bus_id: str | None, library: str = _NVML) -> None:
        if bus_id is None:
            raise BackendError("there is no GPU")
        try:
            self._nvml: Any = ctypes.CDLL(library)
        except OSError as error:
            raise BackendError(f"{library} cannot be loaded") from error
        self._device = ctypes.c_void_p()
        self._before = 0
        self._call("nvmlInit_v2")
        try:
            self._call("nvmlDeviceGetHandleByPciBusId_v2", bus_id.encode(), ctypes.byref(self._device))
            self._millijoules()
        except BackendError:
            self.close()
            raise

    def start(self) -> None:
        """Read the counter."""
        self._before = self._millijoules()

    def stop(self) -> float:
        """Energy since ``start`` [J]."""
        return (self._millijoules() - self._before) / 1000

    def close(self) -> None:
        """End NVML."""
        self._nvml.nvmlShutdown()

    def _millijoules(self) -> int:
        found = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(found))
        return found.value

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._nvml, name)(*arguments)
        if status != 0:
            self._nvml.nvmlErrorString.restype = ctypes.c_char_p
            words = (self._nvml.nvmlErrorString(status) or b"").decode("ascii", "replace")
            raise BackendError(f"{name} failed: {words or f'status {status}'}")
