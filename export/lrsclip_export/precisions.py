"""Which precisions can be made from fp32 graphs, and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.half import half_graph
from lrsclip_export.int8_cpu import int8_cpu_graph
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.errors import DependencyError, InputError

__all__ = [
    "CALIBRATED",
    "EXPORTABLE",
    "FOR_TENSORRT",
    "TOWER_GRAPHS",
    "check_precisions",
    "graph_files",
    "require_onnx",
    "save_graph",
    "write_precision",
]

TOWER_GRAPHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"image": ("image", "dense"), "text": ("text", "text-248")}
)
"""Graphs of each tower; those of one tower share a weight file."""

_CONVERSIONS: Mapping[str, Callable[[SourceGraph, WeightFile], Any]] = MappingProxyType(
    {"fp16": half_graph, "int8-cpu": int8_cpu_graph}
)

CALIBRATED = ("int8", "fp8")
"""Precisions that need real images and texts (``calibrated``)."""

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


def write_precision(
    folder: Path,
    precision: str,
    fp32: Mapping[str, Path],
    *,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Mapping[str, Path]:
    """Convert the fp32 graphs to ``precision``.

    Args:
        folder: Receives the files.
        precision: ``fp16`` or ``int8-cpu``.
        fp32: The four fp32 graph files by name of the graph.
        progress: Called with the fraction done.

    Returns:
        The four graph files of the new precision.

    Raises:
        BundleError: If a graph cannot be converted.
        DependencyError: If onnx is not installed.
        ParityError: If a weight does not fit the precision.
    """
    require_onnx()
    written: dict[str, Path] = {}
    for tower, graphs in TOWER_GRAPHS.items():
        with WeightFile(folder / f"{tower}.{precision}.weights") as weights:
            for graph in graphs:
                written[graph] = folder / f"{graph}.{precision}.onnx"
                save_graph(_CONVERSIONS[precision](SourceGraph(fp32[graph]), weights), written[graph])
                progress(len(written) / 4)
    return written
