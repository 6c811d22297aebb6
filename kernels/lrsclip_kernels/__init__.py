"""CUDA sources of lrsclip-rt: what they are called, where they lie, and how they are compiled and launched.

Three files under ``src`` hold the kernels: windows to model input (``resample``), similarity with the best
rows (``topk``) and heat-map fusion (``fuse``). They need no header of the toolkit, so nvcc and NVRTC compile
them alike. ``host`` makes the same files run without a GPU: a C++17 compiler takes CUDA's words from there,
and every access to shared memory is checked. Nothing is compiled or loaded at import.
"""

from lrsclip_kernels.sources import ARCHITECTURES, FUSE, RESAMPLE, ROOF, SOURCES, TOPK, KernelSource

__all__ = ["ARCHITECTURES", "FUSE", "RESAMPLE", "ROOF", "SOURCES", "TOPK", "KernelSource"]
