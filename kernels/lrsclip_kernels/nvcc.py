"""How nvcc makes device code of a kernel file, and what it says about registers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KernelResources", "nvcc_command", "resources_from_ptxas"]

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True, slots=True)
class KernelResources:
    """What one kernel takes on one architecture.

    Attributes:
        kernel: Its name.
        architecture: For example ``sm_87``.
        registers: Of a thread.
        stack_bytes: Local memory of a thread.
        spill_bytes: Bytes stored to and loaded from local memory for want of registers.
    """

    kernel: str
    architecture: str
    registers: int
    stack_bytes: int
    spill_bytes: int


def nvcc_command(source: Path, architecture: str, output: Path) -> list[str]:
    """Compile for one architecture: a cubin for ``sm_87`` and the like, PTX for ``compute_75``.

    Warnings are errors; resources are reported on stderr.

    Example:
        >>> nvcc_command(Path("topk.cu"), "compute_75", Path("topk.ptx"))[:4]
        ['nvcc', '-std=c++17', '-arch=compute_75', '-ptx']
    """
    kind = "-ptx" if architecture.startswith("compute_") else "-cubin"
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", kind, "--Werror", "all-warnings"]
    if kind == "-cubin":
        command += ["--ptxas-options=-v"]
    return [*command, "-o", str(output), str(source)]


def resources_from_ptxas(report: str) -> tuple[KernelResources, ...]:
    """Read what ``nvcc_command`` reported for a cubin, kernels in the order of the report.

    Example:
        >>> (found,) = resources_from_ptxas('''
        ... ptxas info    : Compiling entry function 'fuse_windows' for 'sm_87'
        ... ptxas info    : Function properties for fuse_windows
        ...     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
        ... ptxas info    : Used 40 registers, used 0 barriers, 416 bytes cmem[0]
        ... ''')
        >>> found.kernel, found.architecture, found.registers, found.stack_bytes, found.spill_bytes
        ('fuse_windows', 'sm_87', 40, 16, 12)
    """
    found = []
    for part in re.split(r"(?=Compiling entry function)", report):
        entry, frame, registers = (pattern.search(part) for pattern in (_ENTRY, _FRAME, _REGISTERS))
        if entry and frame and registers:
            stack, stores, loads = (int(value) for value in frame.groups())
            found.append(KernelResources(entry[1], entry[2], int(registers[1]), stack, stores + loads))
    return tuple(found)
