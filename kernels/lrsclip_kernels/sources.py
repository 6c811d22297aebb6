"""The kernel files and what a launch of theirs needs, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ARCHITECTURES", "FUSE", "RESAMPLE", "ROOF", "SOURCES", "TOPK", "KernelSource"]

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120")
"""What the kernels are compiled for: Turing to Blackwell, Jetson Orin (87) and Thor (110) among them."""

_FOLDER = Path(__file__).resolve().parent
_KERNEL = re.compile(
    r'^extern "C" __global__ void(?:\s+__launch_bounds__\([\w, ]+\))?\s+(\w+)\(', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class KernelSource:
    """One file of kernels.

    Attributes:
        name: Without ``.cu``.
        threads: Threads of a block.
    """

    name: str
    threads: int

    @property
    def path(self) -> Path:
        """The file."""
        return _FOLDER / "src" / f"{self.name}.cu"

    def kernels(self) -> tuple[str, ...]:
        """Names of its kernels, in the order of the file.

        Example:
            >>> RESAMPLE.kernels()[0]
            'resample_first_u8'
        """
        return tuple(_KERNEL.findall(self.path.read_text(encoding="utf-8")))


RESAMPLE = KernelSource("resample", 256)
TOPK = KernelSource("topk", 128)
FUSE = KernelSource("fuse", 256)
SOURCES = (RESAMPLE, TOPK, FUSE)
ROOF = KernelSource("roof", 256)
"""Of no product: what benchmarks hold the others against."""
