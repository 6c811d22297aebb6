"""What this machine offers to this process: its CPU, and the GPUs that the driver names."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CpuInfo", "available_cpus", "cpu_info", "gpu_names"]

_TELLING = {
    # Flags of /proc/cpuinfo that decide the speed of a transformer, under the names people use.
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "avx-vnni",
    "avx512_vnni": "avx512-vnni",
    "avx512_bf16": "avx512-bf16",
    "amx_bf16": "amx-bf16",
    "amx_int8": "amx-int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The CPU's name, its architecture, the CPUs this process may use and its telling instruction sets."""

    name: str
    architecture: str
    cpus: int
    instructions: tuple[str, ...]


def cpu_info() -> CpuInfo:
    """Read the CPU from the system; what cannot be read is left empty."""
    name, flags = platform.processor(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags.update(value.split())
    except OSError:
        pass
    instructions = tuple(word for flag, word in _TELLING.items() if flag in flags)
    return CpuInfo(name, platform.machine(), available_cpus(), instructions)


def gpu_names(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the loaded driver lists; nothing is initialised.

    Args:
        drivers: The driver's folder, one subfolder a GPU.
    """
    names = []
    for path in sorted(drivers.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(names)


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its cgroup where one is set.

    Inference libraries count the machine's cores instead, and run far too many threads in a container.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return max(1, count)
