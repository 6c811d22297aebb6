"""Which precisions can be made from fp32 graphs, and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.half import half_graph
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.errors import DependencyError, InputError

__all__ = [
    "CALIBRATED",
    "EXPORTABLE",
    "FOR_TENSORRT",
    "NEED_CALIBRATION",
    "TOWER_GRAPHS",
    "check_precisions",
    "graph_files",
    "require_onnx",
    "save_graph",
    "write_half",
]

TOWER_GRAPHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"image": ("image", "dense"), "text": ("text", "text-248")}
)
"""Graphs of each tower; those of one tower share a weight file."""

CALIBRATED = ("int8", "fp8", "int8-cpu")
"""Precisions that look at images and texts (``calibrated``)."""

NEED_CALIBRATION = ("int8", "fp8")
"""Those for which the bundle's probe is too little: their ranges are fixed when they are written."""

FOR_TENSORRT = ("fp16", "int8", "fp8")
"""Precisions whose files keep the rules of ``lint``."""

EXPORTABLE = ("fp32", "fp16", "int8", "int8-cpu", "fp8")
"""Precisions that this version can write."""


def check_precisions(precisions: Sequence[str]) -> tuple[str, ...]:
    """The precisions without duplicates, in the order of :data:`EXPORTABLE`.

    Raises:
        InputError: If one cannot be exported.

    Example:
        >>> check_precisions(["int8-cpu", "fp32", "fp32"])
        ('fp32', 'int8-cpu')
    """
    unknown = [name for name in precisions if name not in EXPORTABLE]
    if unknown:
        raise InputError(
            f"precision {', '.join(unknown)} cannot be exported by this version; "
            f"it writes {', '.join(EXPORTABLE)}"
        )
    return tuple(name for name in EXPORTABLE if name in precisions)


def graph_files(precision: str) -> tuple[str, ...]:
    """Names of all files of a precision.

    Example:
        >>> graph_files("fp16")[:3]
        ('image.fp16.onnx', 'dense.fp16.onnx', 'image.fp16.weights')
    """
    names: list[str] = []
    for tower, graphs in TOWER_GRAPHS.items():
        names += [f"{graph}.{precision}.onnx" for graph in graphs]
        names.append(f"{tower}.{precision}.weights")
    return tuple(names)


def save_graph(model: Any, path: Path) -> None:
    """Write a graph; its bytes depend on its content alone."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def require_onnx() -> None:
    """Say early which library is missing.

    Raises:
        DependencyError: If onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise DependencyError.of("onnx", extra="export") from error


def write_half(
    folder: Path,
    fp32: Mapping[str, Path],
    *,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Mapping[str, Path]:
    """Convert the fp32 graphs to typed ``fp16``.

    Args:
        folder: Receives the files.
        fp32: The four fp32 graph files by name of the graph.
        progress: Called with the fraction done.

    Returns:
        The four graph files.

    Raises:
        BundleError: If a graph cannot be converted.
        DependencyError: If onnx is not installed.
        ParityError: If a weight does not fit float16.
    """
    require_onnx()
    written: dict[str, Path] = {}
    for tower, graphs in TOWER_GRAPHS.items():
        with WeightFile(folder / f"{tower}.fp16.weights") as weights:
            for graph in graphs:
                written[graph] = folder / f"{graph}.fp16.onnx"
                save_graph(half_graph(SourceGraph(fp32[graph]), weights), written[graph])
                progress(len(written) / 4)
    return written
